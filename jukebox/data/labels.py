"""What a song is conditioned on, as one row of numbers, and the part of the lyrics that belongs to a window of audio.

`Labeller` makes rows from names and text; `EmptyLabeller` makes empty ones if a model has no labels. The columns of
a row are in `jukebox/utils/label_row.py`. Which characters a window sees is in `lyric_window.py`, how names become ids
in `artist_genre_processor.py`. How text becomes tokens is in `text_processor.py`, where labels of files come from in
`metadata.py`.

    python -m jukebox.data.labels build --audio_files_dir=D      makes label tables from a folder (build_labels.py)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from jukebox.data.artist_genre_processor import ARTIST_TABLE, GENRE_TABLE, ArtistGenreProcessor, TableSource
from jukebox.data.lyric_window import Times, get_relevant_lyric_tokens, get_timed_lyric_tokens
from jukebox.data.spelling import spelling_notes
from jukebox.data.text_processor import VOCABULARY, TextProcessor, read_vocabulary
from jukebox.utils.errors import UserError
from jukebox.utils.label_row import LabelRow, read_signal


class Labeller:
    """Makes and reads label rows.

    Args:
        max_genre_words: slots for genre ids.
        n_tokens: lyric tokens in a window; 0 for models without lyrics.
        sample_length: samples of the window that a label belongs to.
        v3: names and vocabulary of the 1b model instead of those of the 5b models.
        artist_ids, genre_ids: custom tables, dicts or paths (see ArtistGenreProcessor); None: the released ones,
            looked for when the first name is.
        vocab: characters of a custom vocabulary (see TextProcessor).
        signals: conditioning signals of the model, see `LabelRow`.
    """

    def __init__(
        self,
        max_genre_words: int,
        n_tokens: int,
        sample_length: int,
        v3: bool = False,
        artist_ids: TableSource = None,
        genre_ids: TableSource = None,
        vocab: str | None = None,
        signals: str = "",
    ) -> None:
        self.max_genre_words = max_genre_words
        self.n_tokens = n_tokens
        self.sample_length = sample_length
        self.v3 = v3
        self.row = LabelRow(max_genre_words, n_tokens, signals)
        self.label_shape = (self.row.size,)
        self.ag_processor = ArtistGenreProcessor(v3, artist_ids, genre_ids)
        self.text_processor = TextProcessor(v3, vocab)
        self._own_vocab = vocab is not None

    # ------------------------------------------------------------------------------------------------ rows

    def get_label(
        self,
        artist: str,
        genre: str,
        lyrics: str,
        total_length: int,
        offset: int,
        times: Times | None = None,
        **signals: Any,
    ) -> dict[str, Any]:
        """The label of one window.

        Args:
            artist, genre: names; unknown ones get id 0.
            lyrics: of the whole song, any text.
            total_length: samples of the song.
            offset: first sample of the window, in [0, total_length).
            times: when each character of `lyrics` is sung, (start, end) in samples; the window of lyrics follows them.
            signals: values of conditioning signals by name; those that the model lacks have no effect.

        Returns:
            `y`: LongTensor [row.size]; `info`: artist, genre and signals as given, cleaned lyrics,
            `full_tokens` of the song, and `token_times` if times are known.

        Raises:
            UserError: more genre words than slots, an offset outside the song, or a value that a signal refuses.
        """
        info: dict[str, Any] = dict(artist=artist, genre=genre, **signals)
        if times is None:
            info["lyrics"] = self.text_processor.clean(lyrics)
        else:
            info["lyrics"], info["token_times"] = self._clean_timed(lyrics, times)
        info["full_tokens"] = self.text_processor.tokenise(info["lyrics"])
        tokens, _ = self.lyric_window(info, total_length, offset, self.sample_length)
        ids = self.ag_processor.get_artist_id(artist), self.ag_processor.get_genre_ids(genre)
        return dict(y=self.get_y_from_ids(*ids, tokens, total_length, offset, signals), info=info)

    def get_y_from_ids(
        self,
        artist_id: int,
        genre_ids: Sequence[int],
        lyric_tokens: Sequence[int],
        total_length: int,
        offset: int,
        signals: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        """The row y of ids, values of signals and a window's lyric tokens; LongTensor [row.size].

        Raises:
            UserError: more genre words than slots, or a value that a signal refuses.
        """
        if len(genre_ids) > self.max_genre_words:
            raise UserError(
                f"a genre of {len(genre_ids)} words, and the model takes {self.max_genre_words}; "
                "leave some out or train with a larger max_bow_genre_size"
            )
        if len(lyric_tokens) != self.n_tokens:
            raise ValueError(f"{len(lyric_tokens)} lyric tokens for a window of {self.n_tokens}")
        padding = [-1] * (self.max_genre_words - len(genre_ids))
        bins = [read_signal(name, (signals or {}).get(name)) for name in self.row.signal_names]
        row = [int(total_length), int(offset), self.sample_length, artist_id, *genre_ids, *padding, *bins]
        return torch.tensor([*row, *lyric_tokens], dtype=torch.long)

    def get_batch_labels(self, metas: Sequence[Mapping[str, Any]], device: Any = "cpu") -> dict[str, Any]:
        """Labels of several songs.

        Args:
            metas: for each song artist, genre, lyrics, total_length, offset, and maybe times and signals, as
                `get_label` takes them.
            device: where y will be.

        Returns:
            `y`: LongTensor [N, row.size]; `info`: list of N dicts.
        """
        labels = [self.get_label(**meta) for meta in metas]
        y = torch.stack([label["y"] for label in labels]) if labels else torch.zeros((0, self.row.size)).long()
        return dict(y=y.to(device), info=[label["info"] for label in labels])

    # ---------------------------------------------------------------------------------------------- lyrics

    def lyric_window(
        self, info: Mapping[str, Any], total_length: Any, offset: Any, duration: Any
    ) -> tuple[list[int], list[int]]:
        """Tokens and places of the lyrics in a window, by their times if `info` has them, else at an even pace."""
        times = info.get("token_times")
        if times:
            return get_timed_lyric_tokens(info["full_tokens"], times, self.n_tokens, int(offset), int(duration))
        return get_relevant_lyric_tokens(info["full_tokens"], self.n_tokens, total_length, offset, duration)

    def set_y_lyric_tokens(self, ys: torch.Tensor, labels: Mapping[str, Any]) -> list[list[int]] | None:
        """Writes the lyric tokens that belong to each row's total length, offset and length into the rows.

        Args:
            ys: LongTensor [N, row.size], changed in place.
            labels: `info` has the `full_tokens` of each row's song.

        Returns:
            For each row the places of its tokens in the full lyrics, -1 for padding; None for a model without lyrics.
        """
        if self.n_tokens == 0:
            return None
        rows, places = [], []
        for y, info in zip(ys[:, self.row.times].cpu(), labels["info"], strict=True):
            tokens, indices = self.lyric_window(info, *y)  # tensors, so that the arithmetic is float32
            rows.append(tokens)
            places.append(indices)
        ys[:, self.row.lyrics] = torch.tensor(rows, dtype=torch.long).view(len(rows), self.n_tokens)
        return places

    def get_token_times(self, info: Mapping[str, Any], indices: Sequence[int], offset: int) -> torch.Tensor:
        """When the tokens of a window are sung, counted from the window's first sample.

        Args:
            info: of the song; without `token_times` nothing is known.
            indices: places of the window's tokens in the full lyrics, as `lyric_window` gives them.
            offset: first sample of the window.

        Returns:
            LongTensor [n_tokens, 2] of (start, end) in samples; start == end if the time is not known.
        """
        times = info.get("token_times")
        rows = [[round(t) - offset for t in times[i]] if times and i >= 0 else [0, 0] for i in indices]
        return torch.tensor(rows, dtype=torch.long).view(len(rows), 2)

    def _clean_timed(self, lyrics: str, times: Times) -> tuple[str, list[list[int]]]:
        """Cleaned lyrics and the times of their characters; what one character turns into shares its time evenly."""
        if len(times) != len(lyrics):
            raise ValueError(f"{len(times)} times for {len(lyrics)} characters of lyrics")
        pieces, spans = [], []
        for character, (start, end) in zip(lyrics, times, strict=True):
            clean = self.text_processor.clean_character(character)
            pieces.append(clean)
            for i in range(len(clean)):
                share = (end - start) / len(clean)
                spans.append([round(start + i * share), round(start + (i + 1) * share)])
        return "".join(pieces), spans

    # --------------------------------------------------------------------------------------------- reading

    def describe_label(self, y: Any) -> dict[str, str]:
        """What a row says: the names of its artist and genre as the table spells them, and the lyrics of its window."""
        values = y.tolist() if hasattr(y, "tolist") else list(y)
        return dict(
            artist=self.ag_processor.get_artist(*values[self.row.artist]),
            genre=self.ag_processor.get_genre(values[self.row.genre]),
            lyrics=self.text_processor.textise(values[self.row.lyrics]),
        )

    def unknown_names(self, artist: str, genre: str) -> list[str]:
        """One line for each name that the tables lack, with the three nearest known ones; empty if none is."""
        ag, word = self.ag_processor, "genre" if self.v3 else "genre word"
        unknown = [] if ag.artist_name(artist) in ag.artist_ids else [("artist", artist, ag.nearest_artists(artist))]
        for name in ag.genre_names(genre):
            if name and name not in ag.genre_ids:
                unknown.append((word, name, ag.nearest_genres(name)))
        return [
            f"{what} {name!r} is not known to the model; nearest: {', '.join(near)}" for what, name, near in unknown
        ]

    def unknown_characters(self, lyrics: str) -> list[str]:
        """What some lyrics lose or change in the model's alphabet, a line for each kind; empty if all stays."""
        return spelling_notes(self.text_processor, [lyrics], "a model trained with labels build --vocab=auto keeps all")

    # --------------------------------------------------------------------------------------------- storing

    def state(self) -> dict[str, Any]:
        """All that is needed to make the same labeller elsewhere, of plain types.

        Custom tables and vocabulary are in it; released tables are not, they are fetched where they are needed.
        """
        own = self.ag_processor.own_tables
        return dict(
            max_genre_words=self.max_genre_words,
            n_tokens=self.n_tokens,
            sample_length=self.sample_length,
            v3=self.v3,
            artist_ids=dict(self.ag_processor.artist_ids) if own else None,
            genre_ids=dict(self.ag_processor.genre_ids) if own else None,
            vocab=self.text_processor.vocab if self._own_vocab else None,
            signals=self.row.signals,
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Labeller:
        """The labeller that `state()` described, or as a checkpoint from elsewhere says.

        Raises:
            UserError: it is not such a description. Names of files are none: nothing in a file names another one.
        """
        for key, fits in _STATE.items():
            if key in state and not fits(state[key]):
                raise UserError(
                    f"the checkpoint's labels have {key}={str(state[key])[:60]!r}, which is not what training writes: "
                    "name label tables of your own with --labels_dir"
                )
        wrong = [key for key in state if key not in _STATE] or [key for key in list(_STATE)[:3] if key not in state]
        if wrong:
            raise UserError(
                f"the checkpoint's labels are damaged: look at {str(wrong[0])[:60]!r}; use another checkpoint"
            )
        return cls(**state)

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        max_genre_words: int,
        n_tokens: int,
        sample_length: int,
        v3: bool = False,
        signals: str = "",
    ) -> Labeller:
        """A labeller with the tables and the vocabulary in a folder, as `build` writes them.

        Args:
            folder: has artist_ids.txt and genre_ids.txt, and vocab.txt for another vocabulary; "" means the released
                tables.

        Raises:
            UserError: a table is missing.
        """
        if not os.fspath(folder):
            return cls(max_genre_words, n_tokens, sample_length, v3, signals=signals)
        *tables, vocabulary = (Path(folder) / name for name in (ARTIST_TABLE, GENRE_TABLE, VOCABULARY))
        for table in tables:
            if not table.is_file():
                raise UserError(
                    f"labels_dir={os.fspath(folder)} has no {table.name}; make the tables with "
                    f"python -m jukebox.data.labels build --audio_files_dir=FOLDER --out={os.fspath(folder)}"
                )
        vocab = read_vocabulary(vocabulary) if vocabulary.is_file() else None
        return cls(max_genre_words, n_tokens, sample_length, v3, tables[0], tables[1], vocab, signals)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _is_table(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and all(type(k) is str and _is_count(v) and v < 2**24 for k, v in value.items())


_STATE: dict[str, Callable[[Any], bool]] = {  # what `Labeller.state` writes; the first three must be there
    "max_genre_words": lambda value: _is_count(value) and value < 2**16,
    "n_tokens": lambda value: _is_count(value) and value < 2**24,
    "sample_length": _is_count,
    "v3": lambda value: isinstance(value, bool),
    "artist_ids": _is_table,
    "genre_ids": _is_table,
    "vocab": lambda value: value is None or isinstance(value, str),
    "signals": lambda value: isinstance(value, str),
}


class EmptyLabeller:
    """Replaces a labeller if a model has no labels: rows of no columns."""

    row = LabelRow(0)  # has no signals; label_shape says that there is no row at all
    label_shape = (0,)
    n_tokens = 0

    def get_label(self, *song: Any, **more: Any) -> dict[str, Any]:
        """A label that says nothing, whatever the song."""
        info = dict(artist="n/a", genre="n/a", lyrics=[], full_tokens=[])
        return dict(y=torch.zeros(0, dtype=torch.long), info=info)

    def get_batch_labels(self, metas: Sequence[Any], device: Any = "cpu") -> dict[str, Any]:
        """Labels of N songs; `y` is LongTensor [N, 0]."""
        infos = [self.get_label()["info"] for _ in metas]
        return dict(y=torch.zeros((len(infos), 0), dtype=torch.long, device=device), info=infos)

    def set_y_lyric_tokens(self, ys: torch.Tensor, labels: Mapping[str, Any]) -> None:
        """Nothing to write."""

    def describe_label(self, y: Any) -> dict[str, str]:
        """Nothing is known of any song."""
        return dict(artist="n/a", genre="n/a", lyrics="")

    def unknown_names(self, artist: str, genre: str) -> list[str]:
        """No name is asked for."""
        return []

    def unknown_characters(self, lyrics: str) -> list[str]:
        """No lyrics are asked for."""
        return []

    def state(self) -> None:
        """Nothing to store."""


if __name__ == "__main__":
    from jukebox.data.build_labels import command

    command()
