"""The hooked model: how it is loaded, hooked, asked and scored."""
