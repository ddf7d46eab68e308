"""The job file: its schema, its constraints, how it is read."""
