"""Comparison of searchers on benchmark tables: the number of samples that each needs."""
