"""Evaluators: codes in, values out. One file per evaluator."""
