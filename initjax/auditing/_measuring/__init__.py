"""Measures an anatomy: one pass forward and one back, and statistics of what they show."""
