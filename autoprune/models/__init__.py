"""Networks that a job can name, and checkpoints."""
