"""Reads a jaxpr into an anatomy: where parameters enter, and what becomes of their products."""
