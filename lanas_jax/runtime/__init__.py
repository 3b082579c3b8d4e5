"""The process that a program runs in, and what programs take from it."""
