"""The one kind of error that a user sees without a traceback."""

# What a terminal shows in a few rows; the middle is the least needed.
_HEAD, _TAIL = 300, 200


class UserError(Exception):
    """A user's mistake, in one line: what was given, what is allowed, where to change it.

    Messages quote files of strangers: what cannot be printed, such as the end of a line or what
    steers a terminal, becomes a space, and a long message loses its middle.
    """

    def __init__(self, message: str) -> None:
        line = "".join(letter if letter.isprintable() else " " for letter in message)
        if len(line) > _HEAD + _TAIL:
            line = f"{line[:_HEAD]} ... {line[-_TAIL:]}"
        super().__init__(line)
