"""Text files as people have them: UTF-8, UTF-16 of spreadsheets, Windows-1252 of old ones.

Change here which encodings are read.
"""

from __future__ import annotations

import codecs
import os
from pathlib import Path

LARGEST = 64_000_000  # bytes; no labels and no lyrics are that long
GUESS = "cp1252"
GUESSED = "is not utf-8 and is read as Windows-1252; save it as utf-8 if letters are wrong"
_MARKS = (  # the longer ones first: the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
FEW = 0.2  # share of bytes beyond ASCII in Western text; more of them are another alphabet


def decode_text(content: bytes) -> tuple[str, str] | None:
    """The text of a file's bytes, without a mark at its begin, and its encoding; None if that cannot be told.

    Windows-1252 is a guess for what is not UTF-8 and has few bytes beyond ASCII: other alphabets would become nonsense.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "")
    if not encoding and content.count(0) > len(content) // 4:
        encoding = "utf-16-le" if content[1::2].count(0) >= content[::2].count(0) else "utf-16-be"
    beyond = sum(byte > 127 for byte in content)
    for name in [encoding] if encoding else ["utf-8", *([GUESS] if beyond <= FEW * len(content) else [])]:
        try:
            return content.decode(name), name
        except UnicodeDecodeError:
            continue
    return None


def read_text(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """The text of a file and its encoding; None if it cannot be read, or told, or is larger than LARGEST."""
    try:
        return decode_text(Path(path).read_bytes()) if os.path.getsize(path) <= LARGEST else None
    except OSError:
        return None
