"""How each family of models writes tool calls, and their reading."""
