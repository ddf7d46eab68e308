"""Data sources (one file, one plug-in) and the split data of a job."""
