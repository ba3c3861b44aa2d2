"""What is the manifest's fault, told apart from what is ours."""


class BadInput(Exception):
    """The task's input makes no sense, and will make none at a further attempt. Names the field."""
