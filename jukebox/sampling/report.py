"""What a person sees while songs are made: one bar per level, with windows, tokens per second and the time that is
left.

`Silent` has the same methods and only warns. Change here how progress looks.
"""

from __future__ import annotations

import sys
from typing import Any

from jukebox.utils.progress import progress_bar, write_line


class Silent:
    """Says nothing but warnings."""

    def message(self, text: str) -> None:
        """One line for the user."""

    def plan(self, text: str) -> None:
        """What the run will cost."""

    def warn(self, text: str) -> None:
        """One line about songs of this process, which no other process says."""
        print(f"warning: {text}", file=sys.stderr)

    def begin(self, level: int, tokens: int, windows: int) -> None:
        """A level begins, which makes `tokens` in all songs together, in that many windows."""

    def advance(self, tokens: int) -> None:
        """That many tokens were made."""

    def window_done(self) -> None:
        """A window of all songs is made and saved."""

    def end(self) -> None:
        """The level is made, or was interrupted."""


class Bars(Silent):
    """A bar on stderr. A stream that is not a terminal gets a line every ten seconds at most."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._window = self._windows = 0
        self._level = 0

    def message(self, text: str) -> None:
        write_line(text)

    plan = message

    def begin(self, level: int, tokens: int, windows: int) -> None:
        self.end()
        self._level, self._window, self._windows = level, 0, windows
        self._bar = progress_bar(
            total=tokens,
            unit=" tokens",
            smoothing=0.1,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n:,}/{total:,}{unit} [{elapsed}<{remaining}, {rate_fmt}]",
        )
        self._describe()

    def _describe(self) -> None:
        window = min(self._window + 1, self._windows)
        self._bar.set_description(f"level {self._level}, window {window} of {self._windows}", refresh=False)

    def advance(self, tokens: int) -> None:
        if self._bar is not None:
            self._bar.update(tokens)

    def window_done(self) -> None:
        self._window += 1
        if self._bar is not None:
            self._describe()

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
