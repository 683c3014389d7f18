"""The models of `scripts/audit_evidence.py`, with a planted fault and without one."""
