"""Benchmarks: each prints its figures as JSON, and the ratio side by side in one run."""
