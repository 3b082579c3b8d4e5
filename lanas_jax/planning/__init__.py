"""Estimates of the memory, operations and chip-hours of an experiment on hardware that need not be present."""
