"""From codes to values, one file each."""
