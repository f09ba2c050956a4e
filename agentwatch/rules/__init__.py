"""Rules: Sigma in, verdicts out. Rules decide."""
