"""Gradients of the model's preference with respect to its inputs."""
