"""Exporters: one file, one format."""
