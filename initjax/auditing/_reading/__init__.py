"""Reads a jaxpr into an anatomy: where parameters enter, and what happens to their products."""
