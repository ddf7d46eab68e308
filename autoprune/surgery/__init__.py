"""Carving candidates out of a network, and the proof that it works."""
