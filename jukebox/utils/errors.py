"""The one error that means: the user can put this right; and what it says of a name that is nearly known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something given by the user cannot work.

    The message is one or two lines: what was given, what is allowed, and what to type instead. Command lines print it
    without a traceback and exit with status 2.
    """


def did_you_mean(name: str, known: Iterable[str], prefix: str = "", otherwise: str = ".") -> str:
    """The end of a sentence about an unknown name: the closest known names, or `otherwise` if none is close.

    Args:
        prefix: put before each suggestion, such as "--".
    """
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(prefix + other for other in close)}?" if close else otherwise
