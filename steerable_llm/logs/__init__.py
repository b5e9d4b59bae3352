"""The answer log: what was answered, from what, and what people said of it."""
