"""Damaged, odd and hostile inputs through the programs; ``python -m tests.fuzz --help``."""
