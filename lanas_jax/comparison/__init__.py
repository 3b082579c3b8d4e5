"""Searchers compared on the results of a benchmark: how many samples does each need?"""
