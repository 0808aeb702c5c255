"""Messages for people who call from Python: arguments instead of flags.

Checks are those of the commands, and name flags. Here is the one place where a flag becomes its
argument.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from jukebox.utils.errors import UserError

# Flags of the commands that are called otherwise here.
_ARGUMENTS = {
    "sample_length_in_seconds": "seconds",
    "total_sample_length_in_seconds": "total_seconds",
    "prompt_length_in_seconds": "prompt_seconds",
    "n_samples": "n",
    "audio_file": "prompt",
    "codes_file": "continue_from",
    "mode=primed": "prompt",
    "mode=continue": "continue_from",
    "mode=upsample": "upsample",
}
_TEXTS = ("device", "dtype", "pool", "level")  # shown in quotes


@contextlib.contextmanager
def python_words(**names: str) -> Iterator[None]:
    """Lets errors name arguments where commands name flags; `names` are those called otherwise than in `_ARGUMENTS`."""
    try:
        yield
    except UserError as error:
        error.args = (in_python(str(error), names),)
        raise


def in_python(text: str, names: Mapping[str, str] | None = None) -> str:
    """A line for users of a command, in the words of Python: `--n_samples=2` becomes `n=2`."""
    known = {**_ARGUMENTS, **(names or {})}

    def argument(match: re.Match[str]) -> str:
        name, value = match[1], match[2] or ""
        if f"{name}{value}" in known:
            return known[f"{name}{value}"]
        if name in _TEXTS:
            value = re.sub(r"^=([a-z]\w*(:\d+)?)$", r"='\1'", value)
        return f"{known.get(name, name)}{value}"

    return re.sub(r"--(\w+)(=[\w:]+\b)?", argument, text)
