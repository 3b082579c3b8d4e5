"""File formats: files become bytes and arrays, which `tables` and `data` interpret."""
