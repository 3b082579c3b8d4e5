"""Datasets: from a name to arrays in three parts, or to streams of batches."""
