"""Beam search, and a trained model that translates files."""
