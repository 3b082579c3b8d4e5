"""One long, resumable training on one or several hosts: a winner's, or a supernet's."""
