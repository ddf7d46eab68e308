"""Traced networks as plain data: groups, layers, costs."""
