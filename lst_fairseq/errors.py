"""Errors that more than one part of the package raises."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, written or used; the message names the file and the remedy."""
