"""The one kind of error that a user sees without a traceback."""


class UserError(Exception):
    """A user's mistake, in one line: what was given, what is allowed, where to change it."""
