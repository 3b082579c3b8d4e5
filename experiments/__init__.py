"""Experiments, one plain Python file each."""
