"""The rules of a grammar for the calls of each family of models."""
