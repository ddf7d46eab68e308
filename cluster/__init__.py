"""The only package that knows Ray: executors and everything that runs on a cluster."""
