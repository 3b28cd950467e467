"""Corpora made into manifests: reading them, cleaning, recognition of their speech."""
