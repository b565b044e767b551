"""Molecules: real teachers for real students without training a network; README.md says how to run it."""
