"""The one exception for what a user can mend: the CLI prints it as a single line and exits with code 2."""


class UserError(Exception):
    """Something the user gave is wrong; the message is one line: what, where, and what to do about it."""
