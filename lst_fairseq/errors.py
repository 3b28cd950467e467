"""Errors that more than one part of the package raises."""


class SettingsError(ValueError):
    """A setting that cannot be used; the message begins with its file or flag and has the remedy."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, written or used; the message names the file and the remedy."""


class ComparisonError(ValueError):
    """Systems that cannot be compared; the message says why and what to do."""
