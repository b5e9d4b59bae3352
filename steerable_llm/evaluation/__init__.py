"""How answers are measured, and what was found."""
