"""The zoo of `scripts/audit_evidence.py`: models with a planted fault, and models without any."""
