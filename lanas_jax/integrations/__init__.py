"""LaNAS inside other packages, and runs in their formats."""
