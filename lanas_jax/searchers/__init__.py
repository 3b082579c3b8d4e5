"""Ask/tell search algorithms, one file each."""
