"""Export of trained weights, and their loading."""
