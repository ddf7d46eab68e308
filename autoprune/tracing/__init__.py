"""Finding what can leave a network together: one traced run, then plain data."""
