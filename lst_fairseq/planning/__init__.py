"""Sizes and memory of a training run, before any weight is there."""
