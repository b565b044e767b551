"""Benchmarks, each named after the claim it measures; every ratio is taken within one run on one machine."""
