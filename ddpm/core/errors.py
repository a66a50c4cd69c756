"""The one kind of error that a user sees without a traceback."""


class UserError(Exception):
    """A mistake that the user can correct.

    The message is one line: what was given, what is allowed, and where to change it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
