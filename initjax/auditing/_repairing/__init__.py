"""Repairs parameters in stages. Every stage is a pure function that takes and returns a draft."""
