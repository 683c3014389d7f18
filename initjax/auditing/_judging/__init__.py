"""Judges measurements: layers beside what theory predicts of them, and findings."""
