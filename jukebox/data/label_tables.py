"""Tables of labels, one for the files of a folder and below, as spreadsheets and data sets have them.

    metadata.json      {"song.mp3": {"artist": ...}, ...}, or a list of entries with "file" in each
    metadata.jsonl     such an entry in each line; "file_name" is a usual name too
    metadata.csv       columns file, artist, genre, lyrics; commas, semicolons, tabs or bars; also metadata.tsv

A row names its file by its path below the folder, by its name, without its ending, or by an absolute path of any
machine. Change here which tables are read, and which file a row is about.
"""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jukebox.data.text_files import read_text
from jukebox.utils.errors import UserError, did_you_mean
from jukebox.utils.json_text import parse_json

TABLES = ("metadata.json", "metadata.jsonl", "metadata.csv", "metadata.tsv")  # the first that is there counts
# Other names of what an entry may hold, the first that says something counts; without _, - and spaces.
NAMES: dict[str, tuple[str, ...]] = {
    "file": ("file", "filename", "path", "filepath", "audio", "audiofile"),
    "artist": ("artist", "artists", "artistname", "albumartist"),
    "genre": ("genre", "genres"),
    "lyrics": ("lyrics", "lyric", "syncedlyrics", "plainlyrics", "unsyncedlyrics"),
}
_DELIMITERS = ",;\t|"
_MOST_NAMES = 5000  # files that are looked through for one that a row nearly names


@dataclass(frozen=True)
class Row:
    """An entry of a table: the file as it is written, the number of the row, and the values by their names."""

    file: str
    number: int
    values: Mapping[str, Any]

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The path, part by part."""
        return path_parts(self.file)

    @property
    def is_absolute(self) -> bool:
        """Whether the path begins at the root of some machine."""
        return bool(re.match(r"\s*(?:[A-Za-z]:[\\/]|[\\/]|file:)", self.file))


def path_parts(path: str) -> tuple[str, ...]:
    """The parts of a path of any system, accents composed with their letters (NFC)."""
    plain = unicodedata.normalize("NFC", unquote(path) if path.strip().startswith("file:") else path)
    plain = re.sub(r"^\s*(?:file:/*)?(?:[A-Za-z]:(?=[\\/]))?", "", plain).strip()
    return tuple(part for part in plain.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def stem_of(name: str) -> str:
    """The last part of a path without its ending."""
    return os.path.splitext(name.rpartition("/")[2])[0]


def fold(name: str) -> str:
    """A name without what file systems do not tell apart: case, and accents composed or not."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def canonical(entry: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of an entry under the names in NAMES, and all others under their own in lower case."""
    values = {str(key).strip().lower(): value for key, value in entry.items()}
    bare = {re.sub(r"[\s_-]", "", key): value for key, value in values.items()}
    for name, others in NAMES.items():
        found = [bare[other] for other in others if bare.get(other) not in (None, "")]
        if found:
            values[name] = found[0]
    return values


@dataclass
class Table:
    """The rows of one file of labels.

    Attributes:
        path: the file; names in it are relative to its folder.
        repeated: one line for each row that names a file again and says something else; the last row counts.
    """

    path: Path
    rows: list[Row]
    encoding: str = "utf-8"
    repeated: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._folder = path_parts(str(self.path.parent.absolute()))
        self._found: dict[str, Row | None] = {}
        self._by_last: dict[str, list[Row]] = {}
        by_path: dict[tuple[str, ...], Row] = {}
        for row in self.rows:
            before = by_path.get(row.parts)
            if before is not None and before.values != row.values:
                self.repeated.append(f"row {row.number} ({row.file}), which row {before.number} has with other labels")
            by_path[row.parts] = row
        for row in by_path.values():
            self._by_last.setdefault(fold(row.parts[-1]) if row.parts else "", []).append(row)

    def find(self, name: str) -> Row | None:
        """The row about a file; None if there is none, or several that fit equally.

        Args:
            name: path of the file relative to the folder of the table.
        """
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> Row | None:
        base = name.rpartition("/")[2]
        rows = {last: self._by_last.get(fold(last)) for last in dict.fromkeys((base, stem_of(base)))}
        if not any(rows.values()):
            return None
        inside = path_parts(name)
        found: dict[tuple[int, bool, bool, int], list[Row]] = {}
        for last, candidates in rows.items():
            spelt = (*self._folder, *inside[:-1], unicodedata.normalize("NFC", last))
            for row in candidates or ():
                common = _common_end(row.parts, spelt)
                whole = common == len(row.parts)
                if whole or (row.is_absolute and common >= len(inside) and not self._has(row, common)):
                    exact = sum(a == b for a, b in zip(reversed(row.parts), reversed(spelt), strict=False))
                    if exact < common and self._is_of_another(row, name, base[len(last) :]):
                        continue
                    found.setdefault((common, whole, last == base, exact), []).append(row)
        best = found[max(found)] if found else []
        return best[0] if len(best) == 1 else None

    def _has(self, row: Row, common: int) -> bool:
        """Whether there is a file that an absolute path fits better than by its last `common` parts."""
        longer = (self.path.parent.joinpath(*row.parts[-n:]) for n in range(common + 1, len(row.parts) + 1))
        return os.path.exists(row.file) or any(map(os.path.exists, longer))

    def _is_of_another(self, row: Row, name: str, ending: str) -> bool:
        """Whether a row that spells a file in another case spells a second file as it is."""
        file = self.path.parent / name
        other = file.with_name(row.parts[-1] + ending)
        return os.path.exists(other) and not (os.path.exists(file) and os.path.samefile(file, other))

    def unused(self, names: Sequence[str]) -> list[str]:
        """One line if rows are about none of the files; else empty.

        Args:
            names: of all files, relative to the folder of the table.
        """
        used = {row.number for name in names if (row := self.find(name))}
        rows = [row for row in self.rows if row.number not in used]
        lasting = {row.parts: row.number for row in self.rows}
        rows = [row for row in rows if lasting[row.parts] not in used]  # those that a later row replaced
        if not rows:
            return []
        shown = "; ".join(f"row {row.number} {row.file!r}{_nearly(row, names)}" for row in rows[:3])
        return [f"{len(rows)} of the {len(self.rows)} rows of {self.path.name} name no file here: {shown}"]


def _common_end(a: Sequence[str], b: Sequence[str]) -> int:
    """How many parts two paths have in common at their ends."""
    n = 0
    while n < min(len(a), len(b)) and fold(a[-1 - n]) == fold(b[-1 - n]):
        n += 1
    return n


def _nearly(row: Row, names: Sequence[str]) -> str:
    """The files that a row nearly names, in brackets."""
    last = row.parts[-1] if row.parts else ""
    wanted = stem_of(last) if os.path.splitext(last)[1][1:].isalnum() else last
    same = next((name for name in names if fold(stem_of(name)) == fold(wanted)), None)
    if same is not None:
        return f" (did you mean {same}?)"
    known = dict.fromkeys(map(stem_of, names))
    near = list(known) if len(known) <= _MOST_NAMES else [stem for stem in known if stem[:2] == wanted[:2]]
    hint = did_you_mean(wanted, near[:_MOST_NAMES], otherwise="").removeprefix("; ")
    return f" ({hint})" if hint else ""


# -------------------------------------------------------------------------------------------------------- reading


def read_table(path: Path) -> Table:
    """Reads a table.

    Raises:
        UserError: it cannot be read as what its ending says; the message names the row.
    """
    found = read_text(path)
    if found is None:
        raise UserError(f"{path} is not utf-8 text; save it again as utf-8")
    return Table(path, _READERS[path.suffix.lower()](found[0], path), found[1])


def _json_rows(content: str, path: Path) -> list[Row]:
    try:
        values = parse_json(content)
    except ValueError as error:
        if re.match(r"\s*\{[^\n]*\}\s*\n\s*\{", content):
            return _jsonl_rows(content, path)
        raise UserError(f"{path} is not JSON: {error}") from error
    if isinstance(values, dict):
        entries: list[tuple[Any, Any]] = list(values.items())
    else:
        entries = [(None, entry) for entry in values] if isinstance(values, list) else []
    rows = [_entry(path, number, entry, file, "entry") for number, (file, entry) in enumerate(entries, 1)]
    if not isinstance(values, (dict, list)):
        raise UserError(f'{path} must be {{"song.mp3": {{"artist": ...}}, ...}}, or a list with "file" in each entry')
    return rows


def _jsonl_rows(content: str, path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(content.splitlines() if "\r" in content else content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path}, row {number} is not JSON: {error}") from error
        rows.append(_entry(path, number, entry, None, "row"))
    return rows


def _entry(path: Path, number: int, entry: Any, file: Any, word: str) -> Row:
    values = canonical(entry) if isinstance(entry, dict) else {}
    file = values.get("file") if file is None else file
    if not isinstance(entry, dict) or not isinstance(file, str) or not file.strip():
        raise UserError(
            f'{path}, {word} {number}: an entry must be {{"file": "song.mp3", "artist": ..., "genre": ..., '
            f'"lyrics": ...}}, or {{"song.mp3": {{"artist": ...}}}}'
        )
    return Row(file, number, values)


def _csv_rows(content: str, path: Path) -> list[Row]:
    first = 1
    told = re.match(r'"?sep=(.)"?\s*?(?:\r\n?|\n)', content, re.IGNORECASE)  # as Excel understands it
    if told:
        content, first = content[told.end() :], 2
    delimiter = told[1] if told else _delimiter(content)
    header: list[str] = []
    rows: list[Row] = []
    number = first - 1
    try:
        reader = csv.reader(StringIO(content, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
        for number, cells in enumerate(reader, first):
            if not re.search(r"[^\s\-=_.+|]", "".join(cells)):
                continue  # blank, or a row of separators
            if not header:
                header = [cell.strip() for cell in cells]
                if "file" not in canonical(dict.fromkeys(header, 0)):
                    break
                continue
            values = canonical(dict(zip(header, _fitting(cells, header, delimiter, path, number), strict=False)))
            if not values.get("file"):
                raise UserError(f"{path}, row {number} names no file")
            rows.append(Row(values["file"], number, values))
    except csv.Error as error:
        raise UserError(f"{path}, row {number + 1}: {error}; look for a quotation mark without its partner") from error
    if not rows:
        raise UserError(
            f"{path} needs the columns file, artist, genre, lyrics in its first line, and a file in each row"
        )
    return rows


def _delimiter(content: str) -> str:
    """The sign between cells that makes most known names of the first line."""
    head = next((line for line in content.splitlines() if re.search(r"\w", line)), "")
    known = {other for others in NAMES.values() for other in others}

    def count(delimiter: str) -> tuple[int, int]:
        cells = [re.sub(r'[\s_"-]', "", cell).lower() for cell in head.split(delimiter)]
        return len(known & set(cells)), len(cells)

    return max(_DELIMITERS, key=count)


def _fitting(cells: list[str], header: list[str], delimiter: str, path: Path, number: int) -> list[str]:
    """The cells of a row; lyrics in the last column may have the delimiter in them without quotation marks."""
    more = cells[len(header) :]
    if not any(cell.strip() for cell in more):
        return cells[: len(header)]
    if "lyrics" not in canonical({header[-1]: 0}):
        raise UserError(
            f"{path}, row {number} has {len(cells)} cells and the first line {len(header)}: put quotation marks "
            f"around text with {delimiter!r} in it"
        )
    space = " " if delimiter == "," else ""
    return [*cells[: len(header) - 1], (delimiter + space).join(cells[len(header) - 1 :]).rstrip(delimiter + " ")]


_READERS: dict[str, Callable[[str, Path], list[Row]]] = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
}


def find_tables(folder: Path, names: Iterable[str]) -> list[Path]:
    """The tables among the names in a folder, whatever their case, the one that counts first."""
    there = {fold(name): name for name in sorted(names, reverse=True)}
    return [folder / there[table] for table in TABLES if table in there]
