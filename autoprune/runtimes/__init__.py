"""Runtimes: one file, one way to run a network, as it is deployed."""
