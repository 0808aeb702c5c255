"""Files of labels: --metas, a JSON list with an entry for each song, and --lyrics_file, plain text.

Change here what such a file may hold; what a song is given if the file says nothing is decided in `songs.py`.
"""

from __future__ import annotations

import os
from typing import Any

from jukebox.data.text_files import guess_note, read_text
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import LONGEST
from jukebox.utils.json_text import parse_json
from jukebox.utils.label_row import SIGNALS, read_signal

TOTAL, OFFSET = "total_length_in_seconds", "offset_in_seconds"
# Keys of one entry of --metas, with the types they take.
META_TYPES: dict[str, tuple[type, ...]] = {
    "artist": (str,),
    "genre": (str,),
    "lyrics": (str,),
    TOTAL: (int, float),
    OFFSET: (int, float),
}


def read_metas(path: str | list[dict[str, Any]], notices: list[str] | None = None) -> list[dict[str, Any]]:
    """Reads and checks the file of --metas, or what it holds: a JSON list of {artist, genre, lyrics,
    total_length_in_seconds, offset_in_seconds}. A guessed encoding is added to the notices.

    Raises:
        UserError: no such file, no JSON, or an entry that `check_metas` refuses.
    """
    if isinstance(path, list):
        return check_metas(path, "--metas")
    text = read_text_of("metas", path, notices)
    try:
        metas = parse_json(text)
    except ValueError as error:
        raise UserError(f"--metas={path} is not JSON: {error}") from error
    return check_metas([metas] if isinstance(metas, dict) else metas, f"--metas={path}")


def check_metas(metas: Any, where: str) -> list[dict[str, Any]]:
    """Returns the entries of --metas as they are; `where` names them in messages.

    Raises:
        UserError: no list, an unknown key or a value of the wrong type; the message names the entry.
    """
    if not isinstance(metas, list) or not metas:
        raise UserError(f'{where} must hold a list of entries such as {{"artist": "...", "genre": "..."}}')
    for number, meta in enumerate(metas):
        if not isinstance(meta, dict):
            raise UserError(f"{where}: entry {number} is {meta!r}, not an object with artist, genre, lyrics")
        for key, value in meta.items():
            if key in SIGNALS:
                read_signal(key, value)
                continue
            if key not in META_TYPES:
                known = ", ".join([*META_TYPES, *SIGNALS])
                raise UserError(f"{where}: entry {number} has an unknown key {key!r}; known: {known}")
            if not isinstance(value, META_TYPES[key]) or isinstance(value, bool):
                kind = "text" if META_TYPES[key] == (str,) else "a number"
                raise UserError(f"{where}: {key} of entry {number} is {value!r}, not {kind}")
            # JSON has NaN and Infinity, too; a whole song is longer than 0 s.
            if isinstance(value, (int, float)) and not (0 <= value <= LONGEST and (value > 0 or key != TOTAL)):
                least = "more than 0" if key == TOTAL else "0 or more"
                raise UserError(f"{where}: {key} of entry {number} is {value!r}: give seconds, {least}")
    return metas


def read_text_of(flag: str, path: str, notices: list[str] | None) -> str:
    """Reads the file that a flag names; `flag` is for messages. A guessed encoding is added to the notices.

    Raises:
        UserError: no such file, or its encoding cannot be told.
    """
    flag = f"--{flag}={path}"
    if not os.path.isfile(path):
        raise UserError(f"{flag}: there is no such file")
    found = read_text(path)
    if found is None:
        raise UserError(f"{flag} is not text in UTF-8: save it again as UTF-8")
    if notices is not None and (note := guess_note(found[1])):
        notices.append(f"{flag} {note}")
    return found[0]
