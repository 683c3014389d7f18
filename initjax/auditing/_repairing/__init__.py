"""Repairs parameters in stages, each of which takes and gives a draft."""
