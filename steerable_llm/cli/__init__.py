"""The verbs of the command line, one per Python call."""
