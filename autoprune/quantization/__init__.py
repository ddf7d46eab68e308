"""Fewer bits: ranges, rounding, training for it, and the form that quantised networks have."""
