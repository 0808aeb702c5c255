"""What a person sees while songs are made: a bar for each level and one for the whole run.

That of a level has windows, tokens per second and the time that is left.

`Silent` has the same methods and only warns. Change here how progress looks.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
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

    def expect(self, work: Mapping[int, tuple[int, float]]) -> None:
        """What the run is going to make: level -> (tokens in all songs, what one of them costs in any unit)."""

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
        self._costs: dict[int, float] = {}
        self._whole: Any = None
        self._total = self._done = 0.0  # of the whole run

    def message(self, text: str) -> None:
        write_line(text)

    plan = message

    def expect(self, work: Mapping[int, tuple[int, float]]) -> None:
        self._costs = {level: cost for level, (_, cost) in work.items()}
        self._total, self._done = sum(tokens * cost for tokens, cost in work.values()), 0.0

    def begin(self, level: int, tokens: int, windows: int) -> None:
        self.end()
        if self._whole is None and self._total and sys.stderr.isatty():
            form = "whole run: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
            self._whole = progress_bar(total=self._total, position=1, leave=False, smoothing=0.1, bar_format=form)
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
        whole = f", {self.share:.0%} of the run" if self._total and self._whole is None else ""
        self._bar.set_description(f"level {self._level}, window {window} of {self._windows}{whole}", refresh=False)

    @property
    def share(self) -> float:
        """How much of the whole run is done, in [0, 1]."""
        return min(1.0, self._done / self._total) if self._total else 0.0

    def advance(self, tokens: int) -> None:
        cost = tokens * self._costs.get(self._level, 0.0)
        self._done += cost
        if self._whole is not None:
            self._whole.update(cost)
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
        if self._whole is not None and self.share > 0.999999:
            self._whole.close()
            self._whole = None
