"""Preference pairs: made from logged answers, filtered, reviewed."""
