"""Flax NNX modules that build the networks of a space."""
