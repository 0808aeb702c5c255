"""What a label row holds: which column says what, and the conditioning signals besides artist, genre and lyrics.

    y = [total_length, offset, sample_length, artist, genre, -1, ..., signal, ..., token, token, ...]
         samples       samples samples        id      ids padded      bins         lyric tokens of the window

Labels, priors, samplers and pages read columns here, by name. A new signal is an entry of SIGNALS: its metadata field,
its column and its embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from jukebox.utils.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Signal:
    """A conditioning signal: a number in the label row, and one vector for each number.

    Args:
        description: what a value is, for the help and for messages.
        bins: vectors of its embedding.
        read: value of the metadata field -> bin, 0 to bins - 1; raises what it likes for a value that is none.
    """

    description: str
    bins: int
    read: Callable[[Any], int]


# Name, which is the key in metadata and metas and the flag of sample.py -> signal. A model has those that its
# hyper-parameter `signals` names.
SIGNALS: dict[str, Signal] = {}


def read_signal(name: str, value: Any) -> int:
    """The bin of a value; -1 for None, not known.

    Raises:
        UserError: not a value of this signal.
    """
    signal = SIGNALS[name]
    if value is None:
        return -1
    try:
        found = int(signal.read(value))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        found = -1
    if not 0 <= found < signal.bins:
        raise UserError(f"{name}={value!r} is not known: give {signal.description}")
    return found


@dataclass(frozen=True)
class LabelRow:
    """The columns of a label row, as slices of its last axis: `y[..., row.artist]` has one column.

    Args:
        genres: genre ids; -1 is none.
        tokens: lyric tokens of the window; 0 for models without lyrics.
        signals: names in SIGNALS, separated by commas; -1 is not known.

    Raises:
        UserError: a name that SIGNALS lacks.
    """

    total: ClassVar[slice] = slice(0, 1)  # samples of the song
    offset: ClassVar[slice] = slice(1, 2)  # first sample of the window
    length: ClassVar[slice] = slice(2, 3)  # samples of the window
    times: ClassVar[slice] = slice(0, 3)  # these three
    artist: ClassVar[slice] = slice(3, 4)

    genres: int
    tokens: int = 0
    signals: str = ""

    def __post_init__(self) -> None:
        for name in self.signal_names:
            if name not in SIGNALS:
                raise UserError(f"unknown signal {name!r}{did_you_mean(name, SIGNALS)} Register it in SIGNALS first")

    @property
    def signal_names(self) -> list[str]:
        return [name.strip() for name in self.signals.split(",") if name.strip()]

    @property
    def genre(self) -> slice:
        return slice(self.artist.stop, self.artist.stop + self.genres)

    def signal(self, name: str) -> slice:
        column = self.genre.stop + self.signal_names.index(name)
        return slice(column, column + 1)

    @property
    def lyrics(self) -> slice:
        start = self.genre.stop + len(self.signal_names)
        return slice(start, start + self.tokens)

    @property
    def size(self) -> int:
        return self.lyrics.stop
