"""Damaged, odd and hostile inputs through the project's programs; ``python -m tests.fuzz --help``."""
