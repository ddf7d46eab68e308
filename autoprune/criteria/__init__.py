"""Criteria: who scores the units of a group. One file, one plug-in."""
