"""How the bundled vision model and its pictures, log and questions are made: outside the wheel."""
