"""Trials on a Ray cluster: workers that come and go, one driver that holds searcher and trial store.

`cluster.Cluster` is what a study takes for its workers; ``lanas search EXPERIMENT --cluster ray`` makes one.
"""
