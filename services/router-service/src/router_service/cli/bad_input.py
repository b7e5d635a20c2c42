"""The error of a command that cannot run."""


class BadInput(Exception):
    """The command cannot run; the message says why and what to do."""
