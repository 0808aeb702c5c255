"""Progress bars: the settings that all of them share, and lines that do not disturb them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def progress_bar(things: Iterable[Any] | None = None, **options: Any) -> Any:
    """A bar of tqdm on stderr; a stream that is not a terminal gets a line every ten seconds at most.

    Args:
        things: what to go through, for a loop over the bar itself.
        options: those of tqdm, such as total, unit, desc, bar_format and disable.
    """
    from tqdm import tqdm

    seconds = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(things, **{"file": sys.stderr, "mininterval": seconds, "dynamic_ncols": True, **options})


def write_line(text: str) -> None:
    """Prints a line on stdout, above a bar that is shown."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stdout):
        print(text, flush=True)
