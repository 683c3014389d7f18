"""Programs that give the evidence: each runs as `python -m experiments.NAME`."""
