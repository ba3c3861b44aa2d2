"""Errors of the manifest, apart from those of this program."""


class BadInput(Exception):
    """A field of the task's input has a bad value, which a further attempt cannot heal. Names the field."""
