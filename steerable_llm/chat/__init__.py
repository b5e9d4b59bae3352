"""Messages, the chat template, tool syntax, and where the retrieved text of a prompt is."""
