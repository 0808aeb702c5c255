"""Text files as people have them: UTF-8, UTF-16 of spreadsheets, and the older encodings of many languages.

Change here which encodings are read.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
from pathlib import Path

LARGEST = 64_000_000  # bytes; no labels and no lyrics are that long
_MARKS = (  # the longer ones first: the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
FEW = 0.2  # share of bytes beyond ASCII in Western text; more of them are another alphabet
SEVERAL = 16  # bytes beyond ASCII from which on it shows whether they are single ones, as in Western text
OLD: tuple[str, ...] = ("gb18030", "big5", "big5hkscs", "cp932", "euc_jp", "cp949", "cp1250", "cp1251", "cp1252")
OLD += ("koi8_r", "cp866", "cp1253", "cp1255", "cp1256", "cp874")  # the encodings that are told apart
DAMAGED = "damaged utf-8"
_STAMP = re.compile(rb"[<\[][\d:.,]+[>\]]")  # of lyrics; they would part the letters of words


def decode_text(content: bytes) -> tuple[str, str] | None:
    """The text of a file's bytes, without a mark at its begin, and its encoding; None if that cannot be told.

    What is not UTF-8 is a guess: Windows-1252 if few bytes are beyond ASCII, else by the letters and the language.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "")
    if not encoding and content.count(0) > len(content) // 4:
        encoding = "utf-16-le" if content[1::2].count(0) >= content[::2].count(0) else "utf-16-be"
    try:
        return content.decode(encoding or "utf-8"), encoding or "utf-8"
    except UnicodeDecodeError:
        return None if encoding else _guess(content)


def _guess(content: bytes) -> tuple[str, str] | None:
    whole = content.decode("utf-8", "ignore")
    if sum(letter > "\x7f" for letter in whole) > 2 * (len(content) - len(whole.encode())):
        return content.decode("utf-8", "replace"), DAMAGED
    words = _STAMP.sub(b"", content)
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", words)]
    beyond, singles = sum(runs), runs.count(1)
    if beyond <= (FEW * len(content) if beyond < SEVERAL else min(FEW * len(words), 2 * singles)):
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode("cp1252"), "cp1252"
    import charset_normalizer

    found = list(charset_normalizer.from_bytes(words, cp_isolation=[*OLD], preemptive_behaviour=False))
    likely = [match for match in found if (match.chaos, match.coherence) == (found[0].chaos, found[0].coherence)]
    likely.sort(key=lambda match: -len(re.findall("[\u3040-\u30ff]", str(match))))  # EUC-JP is Korean letters too
    for match in likely:
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode(match.encoding), match.encoding
    return None


def guess_note(encoding: str) -> str:
    """What a person should know of how a file was read; "" if its encoding is certain."""
    if encoding.startswith("utf"):
        return ""
    name = encoding.replace("cp125", "Windows-125")
    return f"is not utf-8 and is read as {name}; save it as utf-8 if letters are wrong"


def read_text(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """The text of a file and its encoding; None if it cannot be read, or told, or is larger than LARGEST."""
    try:
        return decode_text(Path(path).read_bytes()) if os.path.getsize(path) <= LARGEST else None
    except OSError:
        return None
