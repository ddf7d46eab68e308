"""The append-only log of jobs, and what it says."""
