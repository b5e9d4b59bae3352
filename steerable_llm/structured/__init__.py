"""Answers of a given form: tool calls and constrained decoding."""
