"""Real benchmark results as arrays."""
