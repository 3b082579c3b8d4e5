"""Experiments, one plain Python file each; and the benchmarks."""
