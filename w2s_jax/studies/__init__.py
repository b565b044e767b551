"""Families of known populations, simulated experiments, and the studies made of them: verify, demo."""
