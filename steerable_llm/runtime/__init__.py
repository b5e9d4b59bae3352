"""The hooked model: blocks, hooks, the row plan, forward passes and scores."""
