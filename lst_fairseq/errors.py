"""Errors of this plugin that several modules raise."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, written or used; the message names the file and the remedy."""
