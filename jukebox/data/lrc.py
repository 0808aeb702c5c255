"""Timed lyrics: `.lrc` files, read and written.

    [ar:Somebody]                          tags; only offset (milliseconds, positive is earlier) means something here
    [00:12.50]Words of a line              a line and when it begins; several times repeat it
    [00:15.00]<00:15.00>Words <00:15.60>with times <00:16.90>      and its end, where a time has no text

Characters between two times share the span evenly. Change here how such files are understood.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_CHARACTER = 0.5  # seconds; a line before a solo ends earlier than the next line begins
_TIME = r"(\d{1,3}):(\d{1,2}(?:[.:]\d{1,3})?)"
_LINE = re.compile(rf"\s*\[{_TIME}\]")
_WORD = re.compile(rf"<{_TIME}>")
_OFFSET = re.compile(r"^\s*\[offset:\s*([+-]?\d+)\s*\]", re.IGNORECASE | re.MULTILINE)
_TAG = re.compile(r"^\s*\[[a-zA-Z#]+:.*\]\s*$")


@dataclass(frozen=True)
class TimedLyrics:
    """Text, and (start, end) in seconds for each of its characters; a line end takes no time."""

    text: str
    times: tuple[tuple[float, float], ...]


def _seconds(minutes: str, seconds: str) -> float:
    return 60 * int(minutes) + float(seconds.replace(":", "."))


def parse_lrc(content: str, duration: float | None = None) -> TimedLyrics | None:
    """Reads the content of an .lrc file.

    Args:
        duration: seconds of the song, where the last line ends at the latest.

    Returns:
        Lyrics in the order in which they are sung; None where no line with words has a time.
    """
    found = _OFFSET.search(content)
    shift = -int(found[1]) / 1000 if found else 0.0
    lines: list[tuple[float, list[tuple[float, str]]]] = []  # begin of the line, (begin, text) of its parts
    for line in content.lstrip("\ufeff").splitlines():
        begins = []
        while match := _LINE.match(line):
            begins.append(_seconds(match[1], match[2]))
            line = line[match.end() :]
        if begins:
            parts = _split_words(line, begins[0])
            lines += [(begin, [(t + begin - begins[0], text) for t, text in parts]) for begin in begins]
    if not any(part for _, parts in lines for _, part in parts):
        return None
    lines.sort(key=lambda entry: entry[0])
    text: list[str] = []
    times: list[tuple[float, float]] = []
    for i, (_, parts) in enumerate(lines):
        if not any(part for _, part in parts):
            continue  # a time without words: a pause
        limit = lines[i + 1][0] if i + 1 < len(lines) else duration
        if text:
            text.append("\n")
            times.append((times[-1][1], times[-1][1]))
        for j, (begin, part) in enumerate(parts):
            end = parts[j + 1][0] if j + 1 < len(parts) else limit
            longest = begin + LONGEST_CHARACTER * len(part)
            end = longest if end is None else min(longest, max(begin, end))
            width = (end - begin) / max(1, len(part))
            text += part
            times += [(begin + k * width, begin + (k + 1) * width) for k in range(len(part))]
    return TimedLyrics("".join(text), tuple(_ascending([(a + shift, b + shift) for a, b in times])))


def _split_words(line: str, begin: float) -> list[tuple[float, str]]:
    """Parts of a line with their begins; spaces around the line are dropped, those between words kept."""
    pieces = _WORD.split(line)
    parts = [(begin, pieces[0].lstrip())] if pieces[0].strip() else []
    for minutes, seconds, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        parts.append((_seconds(minutes, seconds), text if parts else text.lstrip()))
    for i in range(len(parts) - 1, -1, -1):  # the line's trailing spaces, through parts that are nothing else
        parts[i] = (parts[i][0], parts[i][1].rstrip())
        if parts[i][1]:
            break
    return parts


def _ascending(times: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Starts and ends that never go back and are not negative, as windows of lyrics need them."""
    out, last_start, last_end = [], 0.0, 0.0
    for start, end in times:
        last_start = max(last_start, start)
        last_end = max(last_end, end, last_start)
        out.append((last_start, last_end))
    return out


def format_lrc(text: str, times: Sequence[Sequence[float]], tags: dict[str, str] | None = None) -> str:
    """The content of an .lrc file with a time for every character.

    Args:
        text: lyrics; "\\n" ends a line.
        times: (start, end) in seconds of each character.
        tags: for example ar (artist), ti (title).
    """
    out = [f"[{key}:{value}]" for key, value in (tags or {}).items()]
    begin = 0
    for line in text.split("\n"):
        spans = times[begin : begin + len(line)]
        begin += len(line) + 1
        if line:
            words = "".join(f"<{_stamp(start)}>{c}" for c, (start, _) in zip(line, spans, strict=True))
            out.append(f"[{_stamp(spans[0][0])}]{words}<{_stamp(spans[-1][1])}>")
    return "\n".join(out) + "\n"


def _stamp(seconds: float) -> str:
    milliseconds = max(0, round(1000 * seconds))
    return f"{milliseconds // 60000:02d}:{milliseconds // 1000 % 60:02d}.{milliseconds % 1000:03d}"


def plain_text(content: str) -> str:
    """The words of an .lrc file without times and tags."""
    lines = [_WORD.sub("", re.sub(rf"^(\s*\[{_TIME}\])+", "", line)) for line in content.lstrip("\ufeff").splitlines()]
    return "\n".join(line.strip() for line in lines if line.strip() and not _TAG.match(line))


def fit_times(text: str, timed: TimedLyrics) -> TimedLyrics | None:
    """Times for another spelling of the same lyrics: the characters must be the same but for spaces and line ends.

    Returns:
        None where they are not.
    """
    letters = [i for i, c in enumerate(timed.text) if not c.isspace()]
    if [c for c in text if not c.isspace()] != [timed.text[i] for i in letters]:
        return None
    times: list[tuple[float, float]] = []
    here, n = 0.0, 0
    for c in text:
        if not c.isspace():
            times.append(timed.times[letters[n]])
            here, n = times[-1][1], n + 1
        else:
            times.append((here, here))
    return TimedLyrics(text, tuple(times))
