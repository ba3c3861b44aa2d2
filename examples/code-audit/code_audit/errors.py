"""Errors of the manifest, apart from those of this program."""


class BadInput(Exception):
    """The task's input makes no sense, and will make none at a further attempt. Names the field."""
