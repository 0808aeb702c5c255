"""The one error that means: the user can put this right."""


class UserError(ValueError):
    """Something given by the user cannot work.

    The message is one or two lines: what was given, what is allowed, and what to type instead. Command lines print it
    without a traceback and exit with status 2.
    """
