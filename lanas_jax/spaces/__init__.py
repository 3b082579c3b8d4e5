"""Search spaces: what may be built, one file each."""
