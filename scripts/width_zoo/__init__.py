"""Models of several widths for `scripts/coordinate_evidence.py`: right ones, and planted errors."""
