"""What becomes of lyrics in an alphabet that lacks some of their letters, and how that is said.

    夜に駆ける      spelt letter by letter: Ye niQu keru; with the extra `japanese`, as a reader would: Yoru ni kakeru

Sampling, training and the tables of labels all go through here. Change here how lyrics are read before they become
tokens; which characters a model knows is in `text_processor.py`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

from jukebox.data.lyric_window import Times
from jukebox.data.text_processor import TextProcessor

EXTRA = "the extra `japanese`, pip install cutlet unidic-lite,"
_KANA = re.compile("[\u3041-\u309f\u30a0-\u30ff\uff66-\uff9f]")
_KANJI = re.compile("[\u3005\u3400-\u4dbf\u4e00-\u9fff]")
_SHOWN = 40  # characters of a line in a message


def is_japanese(text: str) -> bool:
    """Whether a text has kana, which only Japanese has."""
    return _KANA.search(text) is not None


def read_for(processor: TextProcessor, text: str, times: Times | None = None) -> tuple[str, Times | None]:
    """Japanese lyrics as they are read, in Latin letters, if the alphabet lacks theirs and the extra is installed.

    Args:
        processor: has the alphabet.
        times: (start, end) of each character, in any unit.

    Returns:
        The lyrics and their times; as they were given in any other case.
    """
    lacking = any(c not in processor.tokens for c in _KANA.findall(text) + _KANJI.findall(text))
    reader = _reader() if is_japanese(text) and lacking else None
    if reader is None:
        return text, times
    out: list[str] = []
    spans: list[Any] = []
    begin = 0
    for line in text.split("\n"):
        end = begin + len(line)
        for piece, first, last in _read_line(reader, line):
            out.append(piece)
            if times is not None and piece:
                start, stop = times[begin + first][0], times[begin + min(last, len(line)) - 1][1]
                start = max(start, spans[-1][0]) if spans else start  # pieces of one character share its time
                width = max(0.0, stop - start) / len(piece)
                spans += [(start + i * width, start + (i + 1) * width) for i in range(len(piece))]
        out.append("\n")
        if times is not None and end < len(text):
            spans.append(times[end])
        begin = end + 1
    return "".join(out[:-1]), spans if times is not None else None


def _read_line(reader: Any, line: str) -> list[tuple[str, int, int]]:
    """The reading of a line in pieces: (letters, first and last + 1 character of the line that they read)."""
    as_it_is = [(c, i, i + 1) for i, c in enumerate(line)]
    if not (_KANA.search(line) or _KANJI.search(line)):
        return as_it_is
    plain = unicodedata.normalize("NFKC", line)  # kana of half width among them
    try:
        words = list(reader.tagger(plain))
        tokens = reader.romaji_tokens(words)
    except (AttributeError, LookupError):  # a rare sign that it does not know
        return as_it_is
    pieces, at = [], 0
    for word, token in zip(words, tokens, strict=True):
        found = plain.find(word.surface, at)
        first = found if found >= 0 else at
        at = min(len(plain), first + len(word.surface))
        place = first * len(line) // len(plain)
        letters = token.surface + (" " if token.space else "")
        pieces.append((letters, min(place, len(line) - 1), max(place + 1, at * len(line) // len(plain))))
    letters, place, last = pieces[-1]
    return [*pieces[:-1], (letters.rstrip(), place, last)]


@functools.cache
def _reader() -> Any:
    """Cutlet, which reads Japanese; None if it is not installed."""
    try:
        import cutlet

        reader = cutlet.Cutlet()
    except (ImportError, RuntimeError):  # without a dictionary, too
        return None
    reader.use_foreign_spelling = False  # as it is sung: kaado, not card
    return reader


def spelling_notes(processor: TextProcessor, texts: Iterable[str], keep: str) -> list[str]:
    """What some lyrics lose or change in an alphabet, in at most three lines; empty if all stays.

    Args:
        texts: lyrics.
        keep: how all letters could be kept.
    """
    dropped: Counter[str] = Counter()
    example: tuple[str, str] | None = None
    left = False
    unread = was_read = False
    for text in texts:
        read, _ = read_for(processor, text)
        was_read |= read != text
        unread |= read == text and is_japanese(text) and any(c not in processor.tokens for c in _KANJI.findall(text))
        for line, sung in zip(text.split("\n"), read.split("\n"), strict=True):
            clean = {c: processor.clean_character(c) for c in sung}
            dropped.update(c for c in sung if not c.isspace() and not clean[c])
            left |= any(part.strip() for part in clean.values())
            if example is None and (line != sung or spelt_otherwise(processor, sung)):
                example = (_short(line.strip()), _short("".join(clean[c] for c in sung).strip()))
    lines = []
    if dropped:
        most = [f"{c} x{n}" if n > 1 else c for c, n in dropped.most_common(12)]
        rest = " ..." if len(dropped) > 12 else ""
        nothing = "" if left else "; nothing is left of them"
        lines.append(
            f"characters of the lyrics that the alphabet lacks are left out: {' '.join(most)}{rest}{nothing} ({keep})"
        )
    if example is not None:
        how = "Japanese lyrics are read" if was_read else "letters that the alphabet lacks are spelt with others"
        lines.append(f"{how}: {example[0]!r} is sung as {example[1]!r} ({keep})")
    if unread:
        lines.append(f"kanji have Chinese readings so; {EXTRA} reads them as Japanese")
    return lines


def spelt_otherwise(processor: TextProcessor, text: str) -> set[str]:
    """The letters of a text that become others in the alphabet."""
    return {c for c in set(text) if c.isalpha() and processor.clean_character(c) not in ("", c)}


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
