"""Formats of files, read to bytes and arrays: what the bytes stand for is left to `tables` and `data`."""
