"""The one error of every file that is read."""


class FileError(ValueError):
    """A file of results or images that is missing, damaged, of another kind, or holds what it must not."""
