"""A search of a Python function in one call, and its result."""
