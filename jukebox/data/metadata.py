"""Artist, genre and lyrics of audio files, from the files beside them.

For each of the three, the first that says something counts:

    song.json beside song.mp3      {"artist": "...", "genre": "...", "lyrics": "..."}; also song.mp3.json
    song.txt                       the lyrics
    a table in the folder          metadata.json, .jsonl, .csv or .tsv (label_tables.py), then in those above it
    the file's own tags

Lyrics from any of these may have times, in any dialect of `stamps.py`. Timed ones in song.lrc, .srt or .vtt win over
others; times of lower sources go to lyrics that are the same words. Case does not matter in names of such files.

Whatever is wrong with the labels of a file, the file is used with what is left. `Notices` says so once for each kind of
trouble. Change here where labels come from.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jukebox.data.label_tables import TABLES, Table, canonical, find_tables, fold, read_table, stem_of
from jukebox.data.lrc import Lyrics, fit_times, parse_lyrics, text_of_entries
from jukebox.data.text_files import guess_note, read_text
from jukebox.utils.audio.id3 import genre_name
from jukebox.utils.audio.scan import LYRIC_TAG
from jukebox.utils.json_text import parse_json
from jukebox.utils.label_row import SIGNALS
from jukebox.utils.plural import counted

UNKNOWN = "unknown"
FIELDS = ("artist", "genre", "lyrics")
TIMED_FILES = (".lrc", ".srt", ".vtt")  # beside a song, the first that is there


@dataclass(frozen=True)
class SongLabels:
    """Labels of one file; `times`: (start, end) in seconds of each character of the lyrics, if known; `signals`:
    values of conditioning signals by name.
    """

    artist: str = UNKNOWN
    genre: str = UNKNOWN
    lyrics: str = ""
    times: tuple[tuple[float, float], ...] | None = None
    signals: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, str]) -> SongLabels:
        """Labels of what is known among artist, genre and lyrics."""
        return cls(values.get("artist", UNKNOWN), values.get("genre", UNKNOWN), values.get("lyrics", ""))


@dataclass
class Notices:
    """What was found wrong with labels, told once for each kind however many files have it."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> bool:
        """Notes one more file with a kind of trouble. Returns whether it is the first."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return self.examples.setdefault(kind, example) == example and self.counts[kind] == 1

    def lines(self) -> list[str]:
        """One line for each kind, in the order in which they came up."""
        return [f"{n} of the files: {kind} (first: {self.examples[kind]})" for kind, n in self.counts.items()]


def as_text(field: str, value: Any) -> str | None:
    """A label as text; None for what cannot be a label.

    Strings and numbers are taken as they are, but composed (NFC) and, in names, with single spaces and none at the
    ends. Lists are joined: the lines of lyrics by line ends, names by "; ".
    """
    if isinstance(value, str):
        text = unicodedata.normalize("NFC", value.encode("utf-8", "replace").decode()).strip("\0")
        return text if field == "lyrics" else " ".join(text.split())
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return str(value)
    if field == "lyrics" and isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        text_with_times = text_of_entries(value)
        return None if text_with_times is None else as_text(field, text_with_times)
    if isinstance(value, (list, tuple)) and value:
        parts = [as_text(field, part) for part in value]
        return None if None in parts else ("\n" if field == "lyrics" else "; ").join(part for part in parts if part)
    return None


class FolderMetadata:
    """Labels of the files below one folder.

    Args:
        folder: what names are relative to.
        notices: where trouble is noted.
        lyric_line: which of several lines of lyrics on the same stamp is sung.

    Raises:
        UserError: a table cannot be read: one file for all is worth stopping for. Tables below the folder are read when
            the first file of theirs is.
    """

    def __init__(self, folder: str | os.PathLike[str], notices: Notices, lyric_line: int = 1) -> None:
        self.folder = Path(folder)
        self.notices = notices
        self.lyric_line = lyric_line
        self._listings: dict[str, dict[str, list[str]]] = {}
        self._endings: dict[str, set[str]] = {}
        self._tables: dict[str, Table | None] = {}
        self._table_of("")

    def read(self, name: str, tags: Mapping[str, str], duration: float) -> SongLabels:
        """Labels of one file.

        Args:
            name: relative to the folder, with slashes.
            tags: the file's own tags, names in lower case.
            duration: seconds of the song.
        """
        sources = [self._read_json(name), self._read_txt(name), *self._rows_about(name), *_from_tags(tags)]
        values: dict[str, str] = {}
        lyrics: list[str] = []
        for source in sources:
            for key in FIELDS:
                if source.get(key) is None or (values.get(key) and key != "lyrics"):
                    continue
                text = as_text(key, source[key])
                if text is None:
                    self.notices.add(f"{key} is a {type(source[key]).__name__}, not text, and is left out", name)
                elif text.strip():
                    values.setdefault(key, text)
                    lyrics += [text] if key == "lyrics" else []
        for key in ("artist", "genre"):
            if key not in values:
                self.notices.add(f"no {key} is known, it counts as {UNKNOWN!r}", name)
        signals = {
            key: source[key] for source in reversed(sources) for key in SIGNALS if source.get(key) not in (None, "")
        }
        sung = self._choose_lyrics(name, lyrics, duration)
        return replace(SongLabels.of(values), lyrics=sung.text, times=sung.times, signals=signals)

    def read_times(self, name: str, lyrics: str, duration: float) -> tuple[tuple[float, float], ...] | None:
        """Times from the .lrc file for lyrics that came from elsewhere; None if it has other words."""
        timed = self._read_lrc(name, duration)
        fitted = fit_times(lyrics, timed) if timed else None
        return fitted.times if fitted else None

    def _choose_lyrics(self, name: str, texts: list[str], duration: float) -> Lyrics:
        """The lyrics that are sung, with times from wherever the same words have some.

        Args:
            texts: what the sources say, the first is the one to prefer.
        """
        found = [parse_lyrics(text, duration, self.lyric_line) for text in texts]
        found = [lyrics for lyrics in found if lyrics.text.strip()]
        best = found[0] if found else Lyrics("")
        file = self._read_lrc(name, duration)
        if file is not None and file.times is not None:
            fitted = fit_times(best.text, file)
            if fitted is None and found:
                self.notices.add(
                    "the .lrc file has other words than the other lyrics, and is used instead of them", name
                )
            best, found = fitted or file, [file]
        elif file is not None and not found:
            best, found = file, [file]
        elif best.times is None:
            best = next((fitted for other in found[1:] if (fitted := fit_times(best.text, other))), best)
        for note, example in found[0].notes if found else ():
            self.notices.add(note, f"{name}: {example}")
        return best

    def _read_lrc(self, name: str, duration: float) -> Lyrics | None:
        content = next((text for ending in TIMED_FILES if (text := self._text_beside(name, ending)) is not None), None)
        if content is None:
            return None
        lyrics = parse_lyrics(unicodedata.normalize("NFC", content), duration, self.lyric_line)
        if lyrics.times is None:
            self.notices.add("the .lrc file has no times, its words are used without them", name)
        return lyrics if lyrics.text.strip() else None

    def _read_json(self, name: str) -> Mapping[str, Any]:
        content = self._text_beside(name, ".json")
        if content is None:
            return {}
        try:
            values = parse_json(content)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            self.notices.add("the .json file beside it is not a JSON object, and is left out", name)
            return {}
        return canonical(values)

    def _read_txt(self, name: str) -> Mapping[str, Any]:
        return {"lyrics": self._text_beside(name, ".txt")}

    def _text_beside(self, name: str, ending: str) -> str | None:
        """The text of a file beside a song; None if there is none, or its encoding cannot be told."""
        path = self._beside(name, ending)
        found = None if path is None else read_text(self.folder / path)
        if path is not None and found is None:
            self.notices.add(f"the {ending} file is not utf-8 text, and is left out", name)
        if found is not None and (note := guess_note(found[1])):
            self.notices.add(f"the {ending} file {note}", name)
        return None if found is None else found[0]

    def _beside(self, name: str, ending: str) -> str | None:
        """The file beside a song with another ending, or with one more, whatever their case; None if none is."""
        folder, _, base = name.rpartition("/")
        listing = self._listing(folder)
        if ending not in self._endings[folder]:
            return None
        for wanted in (base + ending, stem_of(base) + ending):
            there = listing.get(fold(wanted), [])
            found = wanted if wanted in there else there[0] if there else ""
            other = found[: len(found) - len(ending)] + base[len(wanted) - len(ending) :]  # a song of its very case
            is_of_another = found != wanted and other != base and other in listing.get(fold(base), [])
            if found and not is_of_another and fold(wanted) not in TABLES:
                return f"{folder}/{found}".lstrip("/")
        return None

    def _listing(self, folder: str) -> dict[str, list[str]]:
        """The files of a folder: name without case -> names; each folder is read once."""
        if folder not in self._listings:
            found: dict[str, list[str]] = {}
            try:
                names = sorted(os.listdir(self.folder / folder))
            except OSError:
                names = []
            for name in names:
                found.setdefault(fold(name), []).append(name)
            self._listings[folder] = found
            self._endings[folder] = {os.path.splitext(key)[1] for key in found}
        return self._listings[folder]

    def _table_of(self, folder: str) -> Table | None:
        if folder not in self._tables:
            there = find_tables(
                self.folder / folder, [name for names in self._listing(folder).values() for name in names]
            )
            self._tables[folder] = read_table(there[0]) if there else None
            table = self._tables[folder]
            if table is not None and (note := guess_note(table.encoding)):
                self.notices.add(f"{table.path.name} {note}", str(table.path))
            for path in there[1:]:
                self.notices.add(f"{path.name} is not read where {there[0].name} is", str(path))
        return self._tables[folder]

    def _rows_about(self, name: str) -> list[Mapping[str, Any]]:
        """What tables say about a file, that of the nearest folder first."""
        found = []
        parts = name.split("/")
        for n in range(len(parts) - 1, -1, -1):
            table = self._table_of("/".join(parts[:n]))
            row = table.find("/".join(parts[n:])) if table else None
            if row is not None:
                found.append(row.values)
        return found

    def unused_rows(self, names: Iterable[str]) -> list[str]:
        """One line for each table with rows about none of the folder's files or with a file twice. One more for
        files with labels beside no song. Empty if all is used.
        """
        names = list(names)
        lines: list[str] = []
        for folder, table in self._tables.items():
            if table is not None:
                below = [
                    name[len(folder) :].lstrip("/") for name in names if not folder or name.startswith(f"{folder}/")
                ]
                lines += table.unused(below)
                if table.repeated:
                    shown = "; ".join(table.repeated[:3])
                    lines.append(
                        f"{counted(len(table.repeated), 'row')} of {table.path.name} for a file named before, the last "
                        f"counts: {shown}"
                    )
        lost = self._lost_files(names)
        if lost:
            lines.append(f"{counted(len(lost), 'file')} of labels or lyrics without a song here: {', '.join(lost[:3])}")
        return lines

    def _lost_files(self, names: list[str]) -> list[str]:
        """Files with labels or timed lyrics that no song has."""
        songs: dict[str, set[str]] = {}
        for name in names:
            folder, _, base = name.rpartition("/")
            songs.setdefault(folder, set()).update((fold(base), fold(stem_of(base))))
        return sorted(
            f"{folder}/{name}".lstrip("/")
            for folder, known in songs.items()
            for key, found in self._listing(folder).items()
            for name in found
            if key.endswith((".json", *TIMED_FILES)) and key[0] != "." and key not in TABLES
            if stem_of(key) not in known
        )


def _from_tags(tags: Mapping[str, str]) -> list[dict[str, str | None]]:
    """What a file's tags say; those of lyrics one by one, that with times by its name first."""
    found = sorted(
        (key for key in tags if LYRIC_TAG.match(key)), key=lambda key: not key.startswith(("sync", "wm/lyrics_sync"))
    )
    names = {"artist": tags.get("artist") or tags.get("album_artist"), "genre": genre_name(tags.get("genre", ""))}
    sources: list[dict[str, str | None]] = [names]
    sources += [{"lyrics": tags[key]} for key in found]
    return sources
