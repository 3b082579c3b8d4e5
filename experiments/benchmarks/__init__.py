"""Measurements, which are not experiments; the docstring of each has its command."""
