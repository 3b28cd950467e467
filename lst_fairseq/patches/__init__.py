"""Repairs of fairseq that cannot be made from outside; applied once, when the plugin registers.

A module a subject, listed in ``repairs.py``. Every other trap of fairseq is avoided by the plugin's own classes.
"""
