"""Measures of what engines render."""
