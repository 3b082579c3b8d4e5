"""Trials on a Ray cluster: workers may join and leave; one driver holds the searcher and the trial store.

A study takes a `cluster.Cluster` as its workers; ``lanas search EXPERIMENT --cluster ray`` creates one.
"""
