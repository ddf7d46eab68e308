"""Objectives: one file, one number."""
