"""Datasets: from a name to arrays in three parts."""
