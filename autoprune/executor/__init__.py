"""Executors that need no cluster."""
