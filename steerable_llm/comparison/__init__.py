"""Many methods on the same pairs and prompts."""
