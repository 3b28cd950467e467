"""Scores, comparisons of systems, and what an adapter has learned."""
