"""Steering vectors: the contract between building and answering."""
