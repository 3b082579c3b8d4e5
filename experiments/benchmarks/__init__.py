"""Measurements, which are no experiments: each says its own command."""
