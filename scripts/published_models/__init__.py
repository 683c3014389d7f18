"""Healthy models of `scripts/audit_evidence.py`: small ones after well-known public repositories.

Each is drawn as its authors draw it, so an audit should find nothing wrong. The code is our own.
"""
