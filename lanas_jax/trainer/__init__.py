"""One long, resumable training of a winner or a supernet, on one or several hosts."""
