"""Custom label tables, made from a folder of songs.

    python -m jukebox.data.labels build --audio_files_dir=D

reads the labels of all songs as training does, writes `artist_ids.txt`, `genre_ids.txt` and, if asked for,
`vocab.txt`, and prints the flags to train with. Change here how tables are made from names.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jukebox.data.artist_genre_processor import ARTIST_TABLE, GENRE_TABLE, ArtistGenreProcessor, format_table
from jukebox.data.lrc import LYRIC_LINE, read_lyric_line
from jukebox.data.metadata import UNKNOWN, FolderMetadata, Notices, SongLabels
from jukebox.data.metadata_hook import call_hook, load_hook
from jukebox.data.spelling import spelling_notes
from jukebox.data.text_processor import VOCABULARY, TextProcessor, make_vocabulary, read_vocabulary
from jukebox.utils.audio.index import AudioIndex, find_audio_files
from jukebox.utils.command_line import Flag, run_command
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write
from jukebox.utils.plural import counted

LEFT_OUT = "cannot be read and is left out"
COLLECT = "auto"  # as --vocab: take the characters from the lyrics


@dataclass(frozen=True)
class LabelSet:
    """Tables made from a folder's songs, and what a model needs to know of them.

    `vocab` is None for the standard alphabet.
    """

    artist_ids: dict[str, int]
    genre_ids: dict[str, int]
    vocab: str | None
    v3: bool
    max_bow_genre_size: int
    min_duration: float
    max_duration: float

    @property
    def y_bins(self) -> list[int]:
        """[number of genres, number of artists], unknown included."""
        return [len(self.genre_ids), len(self.artist_ids)]

    @property
    def n_vocab(self) -> int:
        """Size of the vocabulary, the unknown character included."""
        return TextProcessor(self.v3, self.vocab).n_vocab


def read_labels(folder: str, metadata_py: str, notices: Notices, lyric_line: int = 1) -> list[tuple[SongLabels, float]]:
    """Labels and seconds of every song in a folder that can be decoded.

    Raises:
        UserError: there is none.
    """
    names, _, unread = find_audio_files(folder)
    entries = AudioIndex(folder).look_up(names)
    good = [name for name in names if not entries[name].error]
    errors = {name: entries[name].error for name in names if entries[name].error}
    for name, why in [*errors.items(), *((line, line) for line in unread)]:
        print(f"left out: {why}")
        notices.add(LEFT_OUT, name)
    if not good:
        raise UserError(
            f"audio_files_dir={folder} has no audio file that can be decoded; give the folder of your songs"
        )
    if metadata_py:
        hook = load_hook(metadata_py)
        labels = [call_hook(hook, os.path.join(folder, name), False, name, notices, lyric_line) for name in good]
    else:
        reader = FolderMetadata(folder, notices, lyric_line)
        labels = [reader.read(name, entries[name].tags, entries[name].seconds) for name in good]
        for line in reader.unused_rows(names):
            print(line)
    return [(label, entries[name].seconds) for label, name in zip(labels, good, strict=True)]


def make_label_set(songs: Iterable[tuple[SongLabels, float]], v3: bool = True, vocab: str | None = None) -> LabelSet:
    """Makes tables from labels.

    Ids count from 1 in order of how many songs have the name, then of the alphabet; id 0 is unknown.

    Args:
        songs: labels and seconds.
        v3: one id for a whole genre; False: one for each word of it.
        vocab: characters of the lyrics, COLLECT, or None for the standard alphabet.
    """
    songs = list(songs)
    form = ArtistGenreProcessor(v3, {}, {})
    artists = Counter(form.artist_name(labels.artist) for labels, _ in songs)
    # Of several genres that a list or a tag names, v3 takes the first.
    genres = [form.genre_names(labels.genre.split(";")[0].strip() if v3 else labels.genre) for labels, _ in songs]
    if vocab == COLLECT:
        vocab = "".join(sorted(make_vocabulary(labels.lyrics for labels, _ in songs)))
        if not vocab:
            raise UserError(f"--vocab={COLLECT} takes the characters of the lyrics, and no song has any: leave it out")
    seconds = [duration for _, duration in songs]
    return LabelSet(
        artist_ids=_number(artists),
        genre_ids=_number(Counter(name for names in genres for name in set(names))),
        vocab=vocab,
        v3=v3,
        max_bow_genre_size=1 if v3 else max((len(names) for names in genres), default=1),
        # The timing embeddings refuse lengths within a sample or so of the maximum, so a second is left.
        min_duration=float(math.floor(min(seconds))),
        max_duration=float(math.floor(max(seconds)) + 2),
    )


def _number(counts: Counter[str]) -> dict[str, int]:
    names = [
        name for name, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])) if name not in ("", UNKNOWN)
    ]
    return {UNKNOWN: 0, **{name: i + 1 for i, name in enumerate(names)}}


def write_label_set(made: LabelSet, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes the tables, and the vocabulary if it is not the standard one. Returns the files."""
    files = {ARTIST_TABLE: format_table(made.artist_ids), GENRE_TABLE: format_table(made.genre_ids)}
    if made.vocab is not None:
        files[VOCABULARY] = made.vocab
    for name, text in files.items():
        with atomic_write(Path(folder) / name, "w") as file:
            file.write(text)
    return [Path(folder) / name for name in files]


def build(
    audio_files_dir: str = "",
    out: str = "",
    vocab: str = "",
    labels_v3: bool = True,
    metadata_py: str = "",
    lyric_line: int = 1,
    **limits: Any,
) -> int:
    """Builds the tables of a folder and says what to train with; see the flags."""
    notices = Notices()
    songs = read_labels(audio_files_dir, metadata_py, notices, read_lyric_line(lyric_line))
    characters = COLLECT if vocab == COLLECT else read_vocabulary(vocab) if vocab else None
    made = make_label_set(songs, labels_v3, characters)
    out = out or audio_files_dir
    if made.vocab is None and (Path(out) / VOCABULARY).is_file():
        raise UserError(
            f"{Path(out) / VOCABULARY} is there from before: give it as --vocab={Path(out) / VOCABULARY}, or delete it"
        )
    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"--out={out} is a file: give a folder for the tables")
    for path in write_label_set(made, out):
        print(f"wrote {path}")
    for line in notices.lines():
        print(line)
    processor = TextProcessor(made.v3, made.vocab)
    for line in spelling_notes(processor, (labels.lyrics for labels, _ in songs), f"--vocab={COLLECT} keeps all"):
        print(line)
    low = made.min_duration
    chunk = limits["sample_length"] / limits["sr"]
    if chunk > low:
        low = float(math.ceil(chunk))
        short = sum(duration < low for _, duration in songs)
        print(f"left out, as shorter than a chunk of {chunk:.1f} s: {counted(short, 'song')}")
    print(f"{counted(len(songs), 'song')}; train with")
    print(
        f"  --labels=True --labels_v3={made.v3} --labels_dir={shlex.quote(out)} "
        f"--y_bins={made.y_bins[0]},{made.y_bins[1]} --max_bow_genre_size={made.max_bow_genre_size} "
        f"--min_duration={low:g} --max_duration={made.max_duration:g} --n_vocab={made.n_vocab}"
        + (f" --lyric_line={lyric_line}" if lyric_line > 1 else "")
    )
    return 1 if LEFT_OUT in notices.counts else 0


FLAGS = [
    Flag("audio_files_dir", "", "folder of songs with their labels, searched recursively", kind="path"),
    Flag("out", "", "folder for the tables; empty: that of the songs", kind="path"),
    Flag(
        "vocab",
        "",
        f"text file with the characters of the lyrics; {COLLECT}: those of the songs; empty: the standard ones",
        kind="path",
    ),
    Flag("labels_v3", True, "one id for a whole genre; False: one for each word of it"),
    Flag(
        "metadata_py",
        "",
        "Python file with your own get_metadata(filename, test) -> (artist, genre, lyrics)",
        kind="path",
    ),
    Flag("lyric_line", 1, LYRIC_LINE),
    Flag("sample_length", 0, "samples of a training chunk, if known: it sets a lower limit to min_duration"),
    Flag("sr", 44100, "sample rate of the model, in Hz"),
]


def command(argv: list[str] | None = None) -> NoReturn:
    """The command line `python -m jukebox.data.labels build ...`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["build"]:
        words = words[1:]
    elif not any(word in ("-h", "--help") for word in words):
        print("error: say what to do: python -m jukebox.data.labels build --audio_files_dir=FOLDER", file=sys.stderr)
        sys.exit(2)
    run_command(
        build,
        FLAGS,
        "build: makes artist and genre tables from a folder of songs, and says how to train with them.",
        words,
    )
