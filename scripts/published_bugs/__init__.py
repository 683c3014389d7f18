"""Buggy networks that others published, and their repairs, rebuilt small in JAX."""
