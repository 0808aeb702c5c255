"""Names of artists and genres as numbers, and back.

A table is a text file with one `name;id` a line; id 0 means unknown. The tables of the released models are fetched with
their weights when the first name is looked up, never earlier; one in `jukebox/data/ids/` wins. Your
own tables come from `python -m jukebox.data.labels build`. Change here how a name is brought to its table's form.

    v2   artist "AC/DC" -> ac_dc               genre "Hip-Hop" -> the ids of hip and hop
    v3   artist "AC/DC" -> ac/dc               genre "Hip-Hop" -> the id of hip-hop
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from jukebox.utils.errors import UserError

RELEASED_TABLES = "https://raw.githubusercontent.com/openai/jukebox/master/jukebox/data/ids/"
LOCAL_TABLES = Path(__file__).parent / "ids"
ARTIST_TABLE, GENRE_TABLE = "artist_ids.txt", "genre_ids.txt"  # in a folder of custom labels

UNKNOWN = ("", "unknown")  # id 0 in all released tables, which are not fetched for these

Table = Mapping[str, int]
TableSource = Table | str | os.PathLike[str] | None


def norm(name: str) -> str:
    """The v2 form: lower case, every run of other characters than a-z and 0-9 one "_", none at the ends.

    Accented letters are such other characters: "Céline" is `c_line`.
    """
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def parse_table(text: str, source: str) -> dict[str, int]:
    """Reads `name;id` lines; a name may hold semicolons, and be empty.

    Raises:
        UserError: a line without an id.
    """
    table = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        name, _, index = line.rpartition(";")
        try:
            table[name] = int(index)
        except ValueError:
            raise UserError(f"{source}, line {number}: {line[:80]!r} is not of the form name;id") from None
        if table[name] < 0:
            raise UserError(f"{source}, line {number}: id {index} is negative; ids count from 0, which means unknown")
    return table


def format_table(table: Table) -> str:
    """The text of a table file, in order of ids."""
    return "".join(f"{name};{index}\n" for name, index in sorted(table.items(), key=lambda item: (item[1], item[0])))


def load_table(source: TableSource, released_name: str) -> dict[str, int]:
    """A table from a dict, from a file, or the released one of that name.

    Raises:
        UserError: the file cannot be read, or the released table can be neither found nor fetched.
    """
    if isinstance(source, Mapping):
        return dict(source)
    if source is None:
        local = LOCAL_TABLES / released_name
        source = local if local.is_file() else _fetch(released_name)
    try:
        return parse_table(Path(source).read_text(encoding="utf-8-sig"), os.fspath(source))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the label table {os.fspath(source)}: {error}") from error


def _fetch(released_name: str) -> Path:
    from jukebox.utils.remote_utils import fetch

    return Path(fetch(RELEASED_TABLES + released_name, progress=False))


class ArtistGenreProcessor:
    """Turns names into ids and ids into names.

    Args:
        v3: form of the names, and which released tables are meant.
        artist_ids, genre_ids: a custom table, {name: id} in the form of `v3`, or the path of a table file; None:
            the released table, read when it is first needed.
    """

    def __init__(self, v3: bool = False, artist_ids: TableSource = None, genre_ids: TableSource = None) -> None:
        self.v3 = v3
        self._sources = (artist_ids, genre_ids)

    @cached_property
    def artist_ids(self) -> dict[str, int]:
        """{name in table form: id}."""
        return load_table(self._sources[0], f"v{3 if self.v3 else 2}_artist_ids.txt")

    @cached_property
    def genre_ids(self) -> dict[str, int]:
        """{name in table form: id}; in v2 the names are words."""
        return load_table(self._sources[1], f"v{3 if self.v3 else 2}_genre_ids.txt")

    @cached_property
    def _artists(self) -> dict[int, str]:
        return _reverse(self.artist_ids)

    @cached_property
    def _genres(self) -> dict[int, str]:
        return _reverse(self.genre_ids)

    @property
    def own_tables(self) -> bool:
        """Whether the tables are custom, not the released ones."""
        return self._sources != (None, None)

    @property
    def y_bins(self) -> list[int]:
        """[number of genres, number of artists] that a model needs for these tables, unknown included."""
        return [max(table.values(), default=0) + 1 for table in (self.genre_ids, self.artist_ids)]

    def artist_name(self, artist: str) -> str:
        """The table form of an artist's name."""
        return artist.lower() if self.v3 else norm(artist)

    def genre_names(self, genre: str) -> list[str]:
        """The table forms that a genre consists of: one in v3, its words in v2 ([""] for an empty genre)."""
        return [genre.lower()] if self.v3 else norm(genre).split("_")

    def get_artist_id(self, artist: str) -> int:
        """The artist's id, 0 for one that is not in the table."""
        if not self.own_tables and self.artist_name(artist) in UNKNOWN:
            return 0
        return self.artist_ids.get(self.artist_name(artist), 0)

    def get_genre_ids(self, genre: str) -> list[int]:
        """The genre's ids, one for each word in v2 and one in all in v3; 0 for what is not in the table."""
        if not self.own_tables and self.genre_names(genre) in [[name] for name in UNKNOWN]:
            return [0]
        return [self.genre_ids.get(name, 0) for name in self.genre_names(genre)]

    def get_artist(self, artist_id: int) -> str:
        """The name of an id; several names of one id are joined by "_" in alphabetical order.

        Raises:
            KeyError: no name has the id.
        """
        return self._artists[int(artist_id)]

    def get_genre(self, genre_ids: Iterable[int]) -> str:
        """The names of ids joined by "_" in v2, the name of the first in v3; padding with -1 is left out."""
        names = [self._genres[int(index)] for index in genre_ids if int(index) >= 0]
        return names[0] if self.v3 and names else "_".join(names)

    def nearest_artists(self, name: str, n: int = 3) -> list[str]:
        """The n known artists spelt most like a name, nearest first."""
        return _nearest(self.artist_name(name), self.artist_ids, n)

    def nearest_genres(self, name: str, n: int = 3) -> list[str]:
        """The n known genres (v2: genre words) spelt most like a name, nearest first."""
        return _nearest(" ".join(self.genre_names(name)), self.genre_ids, n)

    def list_artists(self, pattern: str = "") -> list[str]:
        """Known artists whose name has the pattern in it, sorted; *, ? and [...] make it a shell pattern."""
        return _matching(pattern, self.artist_name(pattern), self.artist_ids)

    def list_genres(self, pattern: str = "") -> list[str]:
        """Known genres (v2: genre words) in alphabetical order, chosen like artists."""
        return _matching(pattern, "_".join(self.genre_names(pattern)), self.genre_ids)


def _reverse(table: Table) -> dict[int, str]:
    names = defaultdict(list)
    for name, index in table.items():
        names[index].append(name)
    return {0: "unknown", **{index: "_".join(sorted(entries)) for index, entries in names.items()}}


def _known(table: Table) -> list[str]:
    return sorted(name for name, index in table.items() if name and index)


def _nearest(name: str, table: Table, n: int) -> list[str]:
    """By likeness of spelling; a name that has all words asked for counts as much nearer."""
    words = set(re.findall(r"\w+", name.replace("_", " ")))
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(name)
    scored = []
    for known in _known(table):
        matcher.set_seq1(known)
        found = bool(words) and words <= set(re.findall(r"\w+", known.replace("_", " ")))
        scored.append((-matcher.ratio() - 0.5 * found, known))
    return [known for _, known in sorted(scored)[:n]]


def _matching(pattern: str, form: str, table: Table) -> list[str]:
    """Names that have the pattern, or its form in the table, in them."""
    pattern = pattern.lower()
    if not any(c in pattern for c in "*?["):
        return [name for name in _known(table) if pattern in name.lower() or (form and form in name)]
    return [name for name in _known(table) if fnmatch.fnmatchcase(name.lower(), pattern)]
