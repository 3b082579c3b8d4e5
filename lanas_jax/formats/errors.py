"""The error raised for all unreadable files."""


class FileError(ValueError):
    """A file of results or images is missing, damaged, of another kind, or has invalid content."""
