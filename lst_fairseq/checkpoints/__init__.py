"""Checkpoints read in the open: what a file says is data, and nothing is built from it before it has been looked at."""
