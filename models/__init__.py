"""Flax NNX networks of the search spaces."""
