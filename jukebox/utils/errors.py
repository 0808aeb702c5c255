"""The one error that means: the user can put this right; and what it says of a name that is nearly known."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable


class UserError(ValueError):
    """Something given by the user cannot work.

    The message is one or two lines: what was given, what is allowed, and what to type instead. Command lines print it
    without a traceback and exit with status 2.
    """


def user_message(error: BaseException) -> str:
    """What to tell a user of an error instead of a traceback; "" for errors that are our faults.

    HyperparamsError is known by its name: hparams.py is below utils. What the system says of a file is the user's: that
    it is closed, gone, or has too long a name. PyTorch tells us of a loader's worker that died, wherever we are.
    """
    if any(kind is UserError or kind.__name__ == "HyperparamsError" for kind in type(error).__mro__):
        return str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        path = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
        shown = path if len(path) <= 200 else f"{path[:197]}..."
        return f"{shown}: {error.strerror}; give another path, or see that this one can be read and written"
    if isinstance(error, RuntimeError) and re.search(r"DataLoader worker.* (is killed|exited)", str(error)):
        return (
            "a process that loads songs was killed, perhaps for want of memory: the same command resumes from the last "
            "checkpoint; a smaller --nworkers or --bs needs less"
        )
    return ""


def did_you_mean(name: str, known: Iterable[str], prefix: str = "", otherwise: str = ".") -> str:
    """The end of a sentence about an unknown name: the closest known names, or `otherwise` if none is close.

    Args:
        prefix: put before each suggestion, such as "--".
    """
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(prefix + other for other in close)}?" if close else otherwise
