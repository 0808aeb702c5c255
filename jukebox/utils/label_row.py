"""Which column of a label row says what. Labels, priors, samplers and pages read columns here, by name.

y = [total_length, offset, sample_length, artist, genre, -1, ..., token, token, ...]
     samples       samples samples        id      ids padded      lyric tokens of the window
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class LabelRow:
    """The columns of a label row, as slices of its last axis: `y[..., row.artist]` has one column.

    Args:
        genres: genre ids; -1 is none.
        tokens: lyric tokens of the window; 0 for models without lyrics.
    """

    total: ClassVar[slice] = slice(0, 1)  # samples of the song
    offset: ClassVar[slice] = slice(1, 2)  # first sample of the window
    length: ClassVar[slice] = slice(2, 3)  # samples of the window
    times: ClassVar[slice] = slice(0, 3)  # these three
    artist: ClassVar[slice] = slice(3, 4)

    genres: int
    tokens: int = 0

    @property
    def genre(self) -> slice:
        return slice(self.artist.stop, self.artist.stop + self.genres)

    @property
    def lyrics(self) -> slice:
        return slice(self.genre.stop, self.genre.stop + self.tokens)

    @property
    def size(self) -> int:
        return self.lyrics.stop
