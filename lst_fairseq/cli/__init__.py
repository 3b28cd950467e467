"""The commands that are installed with the package."""
