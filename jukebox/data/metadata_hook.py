"""Labels from a user's own function `get_metadata(filename, test) -> (artist, genre, lyrics)`.

A dict of conditioning signals may come fourth.

Change here how such a function is loaded and what may come back from it.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jukebox.data.lrc import parse_lyrics
from jukebox.data.metadata import FIELDS, Notices, SongLabels, as_text
from jukebox.utils.errors import UserError


def load_hook(path: str) -> Callable[[str, bool], Any]:
    """Returns the function `get_metadata` of a Python file.

    The source is compiled here rather than imported. An import leaves bytecode beside the user's file, and runs it even
    if the file is edited to the same length within a second.

    Raises:
        UserError: there is no such file, it cannot be run, or it defines no such function.
    """
    if not os.path.isfile(path):
        raise UserError(f"metadata_py={path} is not a file: give a Python file with get_metadata(filename, test)")
    if not path.endswith(".py"):
        raise UserError(f"metadata_py={path} is not a Python file: its name must end in .py")
    module = types.ModuleType("jukebox_metadata_" + re.sub(r"\W", "_", os.path.basename(path)))
    module.__file__ = path
    try:
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), module.__dict__)
    except Exception as error:
        raise UserError(f"metadata_py={path} cannot be run: {type(error).__name__}: {error}") from error
    hook = getattr(module, "get_metadata", None)
    if not callable(hook):
        raise UserError(f"metadata_py={path} defines no get_metadata(filename, test) -> (artist, genre, lyrics)")
    return hook


def from_hook(result: Any, name: str, notices: Notices, lyric_line: int = 1) -> SongLabels:
    """What a user's `get_metadata` returned, as labels; anything but (artist, genre, lyrics) counts as unknown."""
    fourth = result[3] if isinstance(result, (tuple, list)) and len(result) == 4 else {}
    if not isinstance(result, (tuple, list)) or len(result) not in (3, 4) or not isinstance(fourth, dict):
        notices.add("get_metadata did not return (artist, genre, lyrics), the file counts as unknown", name)
        return SongLabels()
    values = {}
    for key, value in zip(FIELDS, result, strict=False):
        text = as_text(key, value)
        if text is not None:
            values[key] = text
        elif value is not None:
            notices.add(f"get_metadata gave a {type(value).__name__} as {key}, it counts as missing", name)
    sung = parse_lyrics(values.get("lyrics", ""), None, lyric_line)
    for note, example in sung.notes:
        notices.add(note, f"{name}: {example}")
    return replace(SongLabels.of(values), lyrics=sung.text, times=sung.times, signals=fourth)


def call_hook(
    hook: Callable[[str, bool], Any], path: str, test: bool, name: str, notices: Notices, lyric_line: int = 1
) -> SongLabels:
    """The labels of one file by a user's function; whatever it does, the file is used."""
    try:
        return from_hook(hook(path, test), name, notices, lyric_line)
    except Exception as error:
        notices.add(f"get_metadata raised {type(error).__name__}, the file counts as unknown", f"{name}: {error}")
        return SongLabels()
