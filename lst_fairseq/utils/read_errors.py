"""Errors of files in PyTorch's format."""

import struct

import omegaconf

#: What reading a file raises that is not as it should be, besides ``pickle.UnpicklingError``.
UNREADABLE = (
    *(EOFError, RuntimeError, KeyError, IndexError, TypeError, AttributeError, ValueError, AssertionError, OSError),
    *(ArithmeticError, MemoryError, struct.error, omegaconf.errors.OmegaConfBaseException),
)
