"""Export of trained networks, and their loading."""
