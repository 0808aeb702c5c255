"""Lyrics from any source: words, and when they are sung if the text says it; and `.lrc` files written.

Every source goes through `parse_lyrics`: files, tags, tables, flags and arguments. What a stamp looks like is in
`stamps.py`. Characters between two times share the span evenly. Change here what becomes of lines and their times.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jukebox.data.stamps import LONGEST, Line, read_lines
from jukebox.utils.errors import UserError

LONGEST_CHARACTER = 0.5  # seconds; a line before a solo ends earlier than the next line begins
SAME_MOMENT = 0.03  # seconds; some programs write a translation a hundredth later
MOST_CHARACTERS = 100_000  # of timed lyrics; a few repeated lines can ask for far more
_OFFSET = re.compile(
    r"^\s*\[\s*offset\s*[:：=]\s*([+−-]?)\s*(\d{1,9})(?:[.,](\d{1,9}))?\s*(ms|s)?\s*\]", re.IGNORECASE | re.MULTILINE
)
_LINE_END = re.compile(
    r"\r\n?|[\x0b\x0c\x85\u2028\u2029]|\\{1,2}r\\{1,2}n|\\{1,2}n|<br\s*/?>|</p>", re.IGNORECASE
)  # also spelt out
_INVISIBLE = re.compile("[\ufeff\u200b\u2060\u200e\u200f\u202a-\u202e]")  # marks of an encoding, and of directions
_SUSPECT = re.compile(r"[\[［【<＜{]|-->|\d\s*[:：]\s*\d|\d\t\d")  # without any of these, text is only words

LYRIC_LINE = "which of several lines of lyrics on the same stamp is sung; translations often follow"  # help of the flag
_TIMES = ("start", "begin", "time", "starttime", "timestamp", "startms", "starttimems", "timems", "t", "from")
_ENDS = ("end", "endtime", "endms", "endtimems", "to")
_WORDS = ("text", "words", "line", "lyrics", "lyric", "content")
SAME_TIME = (
    "several lines of the lyrics are on the same stamp, as translations are: {nth} is sung; "
    "--lyric_line chooses another"
)
NO_TIME = "lines of the lyrics have no time where others have one, and are left out"
FEW_TIMES = "most lines of the lyrics have no time, so the times of the others are not used"
ONE_TIME = "most lines of the lyrics are on the same stamp, so times are not used"
TOO_LONG = f"lines of the lyrics are repeated beyond {MOST_CHARACTERS:,} characters: each is sung once"


def read_lyric_line(value: Any) -> int:
    """The value of `lyric_line`, a whole number from 1, else UserError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"--lyric_line={value}: give 1 for the first of several lines on the same stamp, 2, ...")
    return value


@dataclass(frozen=True)
class Lyrics:
    """Words; `times`: (start, end) in seconds for each character, if known; `notes`: (what was left out or chosen,
    an example).

    A line end takes no time. Starts and ends never go back.
    """

    text: str
    times: tuple[tuple[float, float], ...] | None = None
    notes: tuple[tuple[str, str], ...] = ()


def parse_lyrics(content: str, duration: float | None = None, line: int = 1) -> Lyrics:
    """Reads lyrics as a source gives them: no stamp and no tag is left in the words.

    Args:
        content: any text; that without times and tags stays as it is.
        duration: seconds of the song, where the last line ends at the latest.
        line: which of several lines on the same stamp is sung; the last one if there are fewer.
    """
    content = _LINE_END.sub("\n", _INVISIBLE.sub("", content))
    if not _SUSPECT.search(content):
        return Lyrics(content)
    lines = read_lines(content, duration)
    timed = [one for one in lines if one.begins and one.words.strip()]
    words = sum(len(one.words) for one in timed)
    loose = sum(len(one.words) for one in lines if not one.begins)
    useless = _share_a_stamp(timed)
    if not timed or words < loose or useless:
        text = "\n".join(one.words for one in lines)
        same = text.split() == content.split()
        notes = [(ONE_TIME if useless else FEW_TIMES, timed[0].words)] if timed else []
        return Lyrics(content if same else text.strip("\n"), None, tuple(notes))
    notes = [(NO_TIME, next(one.words for one in lines if one.words and not one.begins))] if loose else []
    rows = _choose([one for one in lines if one.begins], line, notes)
    text, times = _spread(rows, duration)
    shift = _offset(content)
    return Lyrics(text, tuple(_ascending([(a + shift, b + shift) for a, b in times])), tuple(notes))


def _share_a_stamp(lines: list[Line]) -> bool:
    """Whether most lines are on one stamp, as where a program had no times; more than translations can be."""
    counts = Counter(stamp for stamp, _ in {(round(1000 * t), one.words) for one in lines for t in one.begins})
    most = max(counts.values(), default=0)
    return most > 2 and (len(counts) == 1 or (most > 4 and 2 * most > counts.total()))


def _offset(content: str) -> float:
    """Seconds to add to every time, from the tag `offset`: milliseconds, positive is earlier."""
    found = _OFFSET.search(content)
    if not found:
        return 0.0
    value = float(f"{found[2]}.{found[3] or 0}") / (1 if found[4] in ("s", "S") else 1000)
    return max(-LONGEST, min(LONGEST, value if found[1] in ("-", "−") else -value))


def _choose(lines: list[Line], which: int, notes: list[tuple[str, str]]) -> list[tuple[float, list[tuple[float, str]]]]:
    """(begin, parts) of what is sung, in order of time: repeats written out, one line of those on the same stamp."""
    if sum(len(one.words) * len(one.begins) for one in lines) > MOST_CHARACTERS:
        notes.append((TOO_LONG, max(lines, key=lambda one: len(one.begins)).words[:80]))
        lines = [Line(one.begins[:1], one.parts) for one in lines]
    first = [
        (begin, [(t + begin - one.begins[0], text) for t, text in one.parts]) for one in lines for begin in one.begins
    ]
    rows: list[tuple[float, list[tuple[float, str]]]] = []
    several = ""
    groups: list[list[tuple[float, list[tuple[float, str]]]]] = []
    for row in sorted(first, key=lambda row: row[0]):
        if groups and row[0] - groups[-1][0][0] < SAME_MOMENT:
            groups[-1].append(row)
        else:
            groups.append([row])
    for group in groups:
        voices: dict[str, tuple[float, list[tuple[float, str]]]] = {}
        for row in group:
            text = "".join(part for _, part in row[1])
            known = voices.get(text)
            if known is None or len(known[1]) < len(row[1]):
                voices[text] = row
        sung = [row for text, row in voices.items() if text.strip()] or list(voices.values())
        rows.append(sung[min(which, len(sung)) - 1])
        if len(sung) > 1 and not several:
            words = ["".join(text for _, text in row[1]) for row in sung]
            chosen = words.pop(min(which, len(sung)) - 1)
            several = f"{chosen!r}, not {words[0]!r}"
    if several:
        notes.insert(0, (SAME_TIME.format(nth="the first" if which == 1 else f"number {which}"), several))
    return rows


def _spread(
    rows: list[tuple[float, list[tuple[float, str]]]], duration: float | None
) -> tuple[str, list[tuple[float, float]]]:
    """The words of all lines, and (start, end) of each character."""
    text: list[str] = []
    times: list[tuple[float, float]] = []
    for i, (_, parts) in enumerate(rows):
        if not any(part.strip() for _, part in parts):
            continue  # a time without words: a pause
        limit = rows[i + 1][0] if i + 1 < len(rows) else duration
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
    return "".join(text), times


def _ascending(times: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Starts and ends that never go back, from 0 to LONGEST, as windows of lyrics need them."""
    out, last_start, last_end = [], 0.0, 0.0
    for start, end in times:
        last_start = max(last_start, min(start, LONGEST))
        last_end = max(last_end, min(end, LONGEST), last_start)
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


def text_of_entries(entries: Sequence[Mapping[str, Any]]) -> str | None:
    """Lyrics of a list such as [{"start": 1.5, "text": "words"}, ...] as text with stamps; None for other lists.

    Times are seconds, milliseconds where the name says so or all are whole and large, or clocks such as "00:01.50".
    """
    lines = []
    names = [{re.sub(r"[\s_-]", "", str(key)).lower(): value for key, value in entry.items()} for entry in entries]
    whole = [v for entry in names for key in _TIMES if isinstance(v := entry.get(key), (int, float)) and v == v]
    large = bool(whole) and all(isinstance(v, int) for v in whole) and max(whole) > 3600
    for entry in names:
        text = next((entry[key] for key in _WORDS if isinstance(entry.get(key), str)), None)
        begin, end = (
            next(((key, entry[key]) for key in group if entry.get(key) is not None), None) for group in (_TIMES, _ENDS)
        )
        if text is None:
            return None
        stamps = [_entry_stamp(*given, large) if given else "" for given in (begin, end)]
        lines.append((f"[{stamps[0]}]" if stamps[0] else "") + text.strip() + (f"<{stamps[1]}>" if all(stamps) else ""))
    return "\n".join(lines)


def _entry_stamp(key: str, value: Any, large: bool) -> str:
    """A time of an entry as it is within a stamp; "" for what is none."""
    if isinstance(value, str) and re.fullmatch(r"[\d:.,]+", value) and ":" in value:
        return value
    try:
        seconds = float(value) / (1000 if large or key.endswith("ms") else 1)
    except (TypeError, ValueError, OverflowError):
        return ""
    return _stamp(seconds) if 0 <= seconds <= LONGEST else ""


def fit_times(text: str, timed: Lyrics) -> Lyrics | None:
    """Times for another spelling of the same lyrics: the characters must be the same but for spaces and line ends.

    Returns:
        None if they are not.
    """
    if timed.times is None:
        return None
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
    return Lyrics(text, tuple(times))
