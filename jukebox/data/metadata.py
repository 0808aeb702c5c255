"""Artist, genre and lyrics of audio files, from the files beside them.

For each of the three, the first that says something counts:

    song.json beside song.mp3            {"artist": "...", "genre": "...", "lyrics": "..."}
    metadata.json in the folder          {"song.mp3": {...}, "b/c.ogg": {...}} or [{"file": "song.mp3", ...}, ...]
    metadata.csv in the folder           columns file, artist, genre, lyrics (if there is no metadata.json)
    the file's own tags

Lyrics from any of these may have times, in any dialect of `stamps.py`. Timed ones in song.lrc win over others; times
of lower sources go to lyrics that are the same words.
Whatever is wrong with the labels of a file, the file is used with what is left, and `Notices` says so once for each
kind of trouble. Change here where labels come from.
"""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

from jukebox.data.lrc import Lyrics, fit_times, parse_lyrics
from jukebox.utils.errors import UserError
from jukebox.utils.label_row import SIGNALS

UNKNOWN = "unknown"
FIELDS = ("artist", "genre", "lyrics")
_FILE_COLUMNS = ("file", "filename", "file_name", "path", "audio")


@dataclass(frozen=True)
class SongLabels:
    """Labels of one file; `times`: (start, end) in seconds of each character of the lyrics, where known; `signals`:
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
        UserError: metadata.json or metadata.csv is there and cannot be read: one file for all is worth stopping for.
    """

    def __init__(self, folder: str | os.PathLike[str], notices: Notices, lyric_line: int = 1) -> None:
        self.folder = Path(folder)
        self.notices = notices
        self.lyric_line = lyric_line
        self._table = self._read_table()

    def read(self, name: str, tags: Mapping[str, str], duration: float) -> SongLabels:
        """Labels of one file.

        Args:
            name: relative to the folder, with slashes.
            tags: the file's own tags, names in lower case.
            duration: seconds of the song.
        """
        sources = [self._read_sidecar(name), self._find_in_table(name), _from_tags(tags)]
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
        """Times from the .lrc file for lyrics that came from elsewhere; None where it has other words."""
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
        for note in found[0].notes if found else ():
            self.notices.add(note, name)
        return best

    def _read_lrc(self, name: str, duration: float) -> Lyrics | None:
        path = (self.folder / name).with_suffix(".lrc")
        if not path.is_file():
            return None
        content = _read_text(path)
        if content is None:
            self.notices.add("the .lrc file is not utf-8 text, and is left out", name)
            return None
        lyrics = parse_lyrics(unicodedata.normalize("NFC", content), duration, self.lyric_line)
        if lyrics.times is None:
            self.notices.add("the .lrc file has no times, its words are used without them", name)
        return lyrics if lyrics.text.strip() else None

    def _read_sidecar(self, name: str) -> Mapping[str, Any]:
        path = (self.folder / name).with_suffix(".json")
        if not path.is_file() or path.name == "metadata.json":
            return {}
        content = _read_text(path)
        try:
            values = json.loads(content) if content is not None else None
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            self.notices.add("the .json file beside it is not a JSON object, and is left out", name)
            return {}
        return {str(key).strip().lower(): value for key, value in values.items()}

    def _find_in_table(self, name: str) -> Mapping[str, Any]:
        for key in _table_keys(name):
            if key in self._table:
                return self._table[key]
        return {}

    def unused_rows(self, names: Iterable[str]) -> list[str]:
        """One line if rows of the folder's table are about none of its files; else empty."""
        used = {key for name in names for key in _table_keys(name)}
        unused = [key for key in self._table if key not in used]
        return [f"{len(unused)} rows of the metadata name no file here (first: {unused[0]})"] if unused else []

    def _read_table(self) -> dict[str, Mapping[str, Any]]:
        for file, reader in (("metadata.json", _json_rows), ("metadata.csv", _csv_rows)):
            path = self.folder / file
            if path.is_file():
                content = _read_text(path)
                if content is None:
                    raise UserError(f"{path} is not utf-8 text; save it again as utf-8")
                return {_plain_path(key): row for key, row in reader(content, path)}
        return {}


def _table_keys(name: str) -> tuple[str, ...]:
    """How a table may name a file: with folders or without, with its ending or without."""
    path = Path(name)
    return name, path.with_suffix("").as_posix(), path.name, path.stem


def _plain_path(name: str) -> str:
    """A file's name as it is in a table, the way names of files are kept: composed, with slashes, without ./"""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _json_rows(content: str, path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    entries = values if isinstance(values, list) else []
    rows = list(values.items()) if isinstance(values, dict) else [(_file_of(row), row) for row in entries]
    if not isinstance(values, (dict, list)) or not all(key and isinstance(row, dict) for key, row in rows):
        raise UserError(
            f'{path} must be {{"song.mp3": {{"artist": ..., "genre": ..., "lyrics": ...}}, ...}}, '
            'or a list of such entries with "file" in each'
        )
    return [(key, {str(name).strip().lower(): value for name, value in row.items()}) for key, row in rows]


def _csv_rows(content: str, path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    head = content.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    rows: list[tuple[str, Mapping[str, Any]]] = []
    try:
        for row in csv.DictReader(StringIO(content, newline=""), delimiter=delimiter, strict=True):
            row = {(key or "").strip().lower(): value for key, value in row.items()}
            rows.append((_file_of(row), row))
    except csv.Error as error:
        raise UserError(
            f"{path}, row {len(rows) + 2}: {error}; look for a quotation mark without its partner"
        ) from error
    if not rows or not all(key for key, _ in rows):
        raise UserError(
            f"{path} needs the columns file, artist, genre, lyrics in its first line, and a file in each row"
        )
    return rows


def _file_of(row: Any) -> str:
    if not isinstance(row, dict):
        return ""
    return next((row[key] for key in _FILE_COLUMNS if isinstance(row.get(key), str) and row[key]), "")


def _from_tags(tags: Mapping[str, str]) -> dict[str, str | None]:
    words = next((text for key, text in tags.items() if key.startswith(("lyrics", "unsyncedlyrics"))), None)
    return dict(artist=tags.get("artist") or tags.get("album_artist"), genre=tags.get("genre"), lyrics=words)


# --------------------------------------------------------------------------------------------------- for a labeller
