"""Times in the text of lyrics: what a stamp looks like in each dialect, and the words that remain without them.

    [01:02.50]words [1:02,5]words [00:01:02.500]words      before a line; hours, spaces, one to nine digits
    [01:02.50][02:10.00]words, words [01:02.50]            a line sung twice; a stamp at the end
    [01:02.50]wo[01:02.80]rds, [01:02.50]<01:02.50>wo<01:02.80>rds<01:03.00>       times of words and syllables
    [62500,900](62500,300,0)wo(62800,600,0)rds             milliseconds and lengths, from the song's begin,
    [62500,900]<0,300,0>wo<300,600,0>rds                   or from the line's, before the words
    [62500,900]wo(62500,300)rds(62800,600)                 or after them
    00:01:02,500 --> 00:01:03,400                          subtitles, the words in the next lines or after it
    01:02 words                                            if most lines begin like this
    Dialogue: 0,0:01:02.50,0:01:03.40,...,words            SubStation files
    <p begin="1:02.5" end="1:03.4">words</p>               TTML files

Change here which dialects are read; what becomes of the times is in `lrc.py`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

LONGEST = 86_400.0  # seconds; a time beyond is a mistake
USUAL_CHARACTER = 0.1  # seconds, for words whose end is known, and not their begin
FASTEST = 60  # characters a second that no singer sings
_G = r"[ \t\u3000]{0,3}"  # a gap; without a bound, long runs of spaces would take hours
_CLOCK = rf"(?:(\d{{1,2}}){_G}[:：]{_G})?(\d{{1,4}}){_G}[:：]{_G}(\d{{1,2}})(?:{_G}[.,:：;．，]{_G}(\d{{0,9}}))?"
_OPEN, _CLOSE = "[\\[［【<＜]", "[\\]］】>＞]"
_STAMP = re.compile(
    rf"({_OPEN}){_G}([-+−]?){_G}(?:{_CLOCK}|(\d{{1,5}}\.\d{{1,4}})(?={_G}s?{_G}{_CLOSE})){_G}s?{_G}"
    rf"(?:({_CLOSE})|(?![^\[\]<>]*{_CLOSE}))"
)
_SYLLABLES = re.compile(rf"{_G}\[[0-8]\](?=.*[(（]{_G}\d{{1,9}},\d{{1,9}}[)）])")  # a number for who sings, no time
_HEAD = re.compile(rf"{_G}\[{_G}(\d{{1,9}}){_G},{_G}(\d{{1,9}}){_G}\]")
_MARK = re.compile(rf"[<(（]{_G}(-?\d{{1,9}}){_G},{_G}(-?\d{{1,9}})(?:{_G},{_G}-?\d{{1,9}})*{_G}[>)）]")
_TIME = r"\d[\d:：.,;]*"
_ARROW = re.compile(rf"{_G}[\[(]?{_G}({_TIME})s?{_G}(-{{1,2}}>|→|[-–—~～]){_G}({_TIME})s?{_G}[\])]?(.*)")
_SETTING = re.compile(r"\b(?:align|position|line|size|vertical|region|X1|X2|Y1|Y2):\S+")
_AUDACITY = re.compile(r"(\d{1,5}\.\d{1,9})\t(\d{1,5}\.\d{1,9})\t(.+)")
_BARE = re.compile(rf"{_G}[(（]?({_CLOCK})(?:[)）]|(?![\w:.,：])){_G}[-–—|]?{_G}")
# Nothing that a person sings; taken out wherever it is.
_TAG = r"\[(?:#|[^\W\d_]\w{0,19})\s*[:：](?:[^\[\]]|\[[^\[\]]*\])*\]"  # [ti:Song [1999]]
_TAGS = re.compile(rf"\s*(?:{_TAG}\s*)+")
_REMARK = re.compile(
    rf"\s*(?:\[:\].*|\{{\"t\"\s*:.*\}}|{_TAG}\]+|\[(?:ar|ti|al|au|by|re|ve|offset|length)\s*[:：][^\[\]]*)\s*",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"</?(?:i|b|u|s|em|strong|font|span|c|v|lang|ruby|rt|p|div|br|tt|body|head)(?:[\s.][^<>]*)?/?>|\{\\[^{}]*\}",
    re.IGNORECASE,
)
_BROKEN = re.compile(
    rf"{_OPEN}(?=[^\[\]<>]*[:：,])(?:[\d\s:：.,;xX?*_+−-]+){_CLOSE}|<-?\d{{1,9}}(?:,-?\d{{1,9}})+>"
    r"|[\[|{](?:\d{1,3}[-'’′:m]\d{1,2}(?:[-\"”″.,:]{1,2}\d{0,4})?s?)[\]|}]|^(?:\{\d{1,9}\}){2}"
)
_SINGER = re.compile(r"^\s*(?:[FMD]|v\d{1,3})[:：]\s+")  # female, male, duet, a voice, before the words of a line
_DIALOGUE = re.compile(rf"^Dialogue:[^,\n]*,({_TIME}),({_TIME})(?:,[^,\n]*){{6}},(.*)", re.MULTILINE)  # SubStation
_PARAGRAPH = re.compile(  # of TTML files
    r'<p\b(?=[^<>]*\bbegin="([^"]*)")(?=[^<>]*\bend="([^"]*)")[^<>]*>(.*?)(?=<p\b|</div|</body|\Z)', re.DOTALL
)


@dataclass
class Line:
    """A line of lyrics.

    Attributes:
        begins: seconds at which it is sung, several if it is repeated; empty if that is not known.
        parts: (begin in seconds, words), as it is sung the first time; a part without words ends the one before.
    """

    begins: list[float] = field(default_factory=list)
    parts: list[tuple[float, str]] = field(default_factory=list)

    @property
    def words(self) -> str:
        """The line without times."""
        return "".join(text for _, text in self.parts)


def read_lines(content: str, duration: float | None = None) -> list[Line]:
    """The lines of lyrics with their times, in the order of the text; lines that are tags are left out.

    Args:
        content: text in any of the dialects.
        duration: seconds of the song, which helps to tell hours from minutes.
    """
    wrapped = re.search(r'LyricContent="([^"]*)"', content)
    if wrapped:
        content = html.unescape(wrapped[1])
    if first := _DIALOGUE.search(content):
        spoken = re.sub(r"^(?:Comment:|\[).*", "", content[first.start() :], flags=re.MULTILINE)
        content = _DIALOGUE.sub(r"\n\1 --> \2 \3", spoken)
    elif timed := _PARAGRAPH.findall(content):
        content = "\n".join(f"{a} --> {b} {html.unescape(' '.join(words.split()))}" for a, b, words in timed)
    rows = [row for row in _unfold(content.splitlines()) if not _REMARK.fullmatch(row) and not _TAGS.fullmatch(row)]
    rows = [part for row in _bracket(rows) for part in _split_joined(row)]
    hours = _has_hours(rows, duration)
    return [_read_line(_TAGS.sub("", row, count=1) if _TAGS.match(row) else row, hours) for row in rows]


def _value(stamp: re.Match[str], hours: bool) -> float | None:
    """Seconds of a stamp, None if no song is that long."""
    _, sign, first, minutes, seconds, fraction, plain, _ = stamp.groups()
    if plain:
        value = float(plain)
    elif first and fraction is None and not hours:  # minutes, seconds, hundredths
        value = 60 * int(first) + int(minutes) + int(seconds) / 100
    else:
        value = 3600 * int(first or 0) + 60 * int(minutes) + float(f"{seconds}.{fraction or 0}")
    value = -value if sign in ("-", "−") else value
    return max(0.0, value) if value <= LONGEST else None


def _stamps(row: str) -> list[re.Match[str]]:
    """The stamps of a line; one that is not closed counts only with a square bracket and a clock."""
    return [stamp for stamp in _STAMP.finditer(row) if stamp[8] or stamp[1] in "[［"]


def _has_hours(rows: list[str], duration: float | None) -> bool:
    """Whether [00:01:05] means hours, minutes and seconds; else it means minutes, seconds and hundredths."""
    found = [(stamp, row) for row in rows for stamp in _stamps(row) if stamp[3]]
    if any(stamp[6] for stamp, _ in found):
        return True
    plain = [(_value(stamp, False), _value(stamp, True), len(row) - stamp.end()) for stamp, row in found]
    known = [(short, long, n) for short, long, n in plain if short is not None and long is not None]
    if any(int(stamp[5]) >= 60 for stamp, _ in found) or (duration and any(long > duration for _, long, _ in known)):
        return False
    gaps = [(after[0] - before[0], before[2]) for before, after in zip(known, known[1:], strict=False)]
    return any(0 < gap < n / FASTEST for gap, n in gaps)


def _seconds_of(clock: str) -> float | None:
    """Seconds of 1:02:03.5, 02:03,5 or 3.5 beside an arrow; None for anything else."""
    parts = re.split("[:：]", re.sub("[,;]", ".", clock))
    try:
        value = sum(float(part) * 60**i for i, part in enumerate(reversed(parts)))
    except ValueError:
        return None
    return value if len(parts) <= 3 and value <= LONGEST else None


def _arrow(row: str) -> re.Match[str] | None:
    """A line with two times and an arrow between them, or a dash between two clocks."""
    found = _ARROW.fullmatch(row)
    clocks = found is not None and all(re.search("[:：]", found[i]) for i in (1, 3))
    return found if found is not None and (clocks or found[2] not in "-–—~～") else None


def _unfold(rows: list[str]) -> Iterator[str]:
    """Subtitles as lines that begin and end with a stamp; other lines as they are."""
    skipping = False  # the head of a WebVTT file, and its notes
    is_vtt = bool(rows) and rows[0].lstrip("\ufeff").startswith("WEBVTT")
    i = 0
    while i < len(rows):
        row = rows[i]
        i += 1
        arrow = _arrow(row)
        if is_vtt and not arrow and (i == 1 or re.match(r"(NOTE|STYLE|REGION)\b", row)):
            skipping = True
        skipping = skipping and bool(row.strip()) and not arrow
        named = i < len(rows) and _arrow(rows[i]) is not None  # the number or name of the next subtitle
        if skipping or (named and (row.strip().isdecimal() or (is_vtt and not rows[i - 2].strip() and not arrow))):
            continue
        if arrow:
            cue = [_SETTING.sub("", arrow[4])]
            while i < len(rows) and rows[i].strip() and not _arrow(rows[i]):
                last = i + 1 < len(rows) and _arrow(rows[i + 1]) and rows[i].strip().isdecimal()
                cue += [] if last else [rows[i]]
                i += 1
            yield from _cue(_seconds_of(arrow[1]), _seconds_of(arrow[3]), [text for text in cue if text.strip()])
        elif label := _AUDACITY.fullmatch(row):
            yield from _cue(float(label[1]), float(label[2]), [label[3]])
        else:
            yield row


def _cue(begin: float | None, end: float | None, words: list[str]) -> Iterator[str]:
    """A subtitle as lines with stamps; several lines share its time by their lengths."""
    if begin is None or end is None:
        yield from words
        return
    size = (end - begin) / max(1, sum(map(len, words)))
    for text in words:
        yield f"[{begin:.4f}]{text}<{begin + size * len(text):.4f}>"
        begin += size * len(text)


def _bracket(rows: list[str]) -> list[str]:
    """The lines with brackets around times that have none, if most lines begin with a time."""
    found = [_BARE.match(row) for row in rows]
    many = sum(match is not None for match in found)
    if 2 * many < sum(bool(row.strip()) for row in rows) or (many < 2 and not any(m and m[5] for m in found)):
        return rows
    return [row if m is None else f"[{m[1]}]{row[m.end() :]}" for row, m in zip(rows, found, strict=True)]


def _split_joined(row: str) -> list[str]:
    """Lines that a program has joined to one: several words after each stamp, and no space before the next."""
    stamps = [stamp for stamp in _stamps(row) if stamp[1] not in "<＜"]
    edges = [*(stamp.start() for stamp in stamps), len(row)]
    words = [row[stamp.end() : end] for stamp, end in zip(stamps, edges[1:], strict=True)]
    joined = len(stamps) > 1 and all(re.search(r"\w\W*\s+\w", text) for text in words)
    if not joined or any(text[-1].isspace() for text in words[:-1]):
        return [row]
    return [row[begin:end] for begin, end in zip([0, *edges[1:-1]], edges[1:], strict=True)]


def _read_line(row: str, hours: bool) -> Line:
    """One line; if its own times are of no use, its words without them."""
    if head := _HEAD.match(row):
        begin, words = int(head[1]) / 1000, row[head.end() :]
        if begin > LONGEST:
            return Line([], _clean([(0.0, _MARK.sub("", words))], timed=False))
        return Line([begin], _clean(_split_marks(words, begin) or [(begin, words), (begin + int(head[2]) / 1000, "")]))
    if singer := _SYLLABLES.match(row):
        parts = _split_marks(row[singer.end() :], 0.0)
        return Line([parts[0][0]], _clean(parts))
    before, pieces, inside = _split_stamps(row, hours)
    if not pieces:
        return Line([], _clean([(0.0, before)], timed=False))
    if before.strip():
        return _read_late(before, pieces)
    first = 0  # of the pieces: how many stamps come before the words
    while first + 1 < len(pieces) and not pieces[first][1].strip() and not inside[first + 1]:
        first += 1
    begins = [seconds for seconds, _ in pieces[: first + 1]]
    rest = pieces[first:]
    if len(rest) > 1 and first and rest[1][0] >= begins[-1] and rest[0][1].strip() and rest[1][1].strip():
        begins = begins[:1]  # the line's time and that of its first word
    else:
        rest = [(begins[0], rest[0][1]), *rest[1:]]
    parts = (_split_marks(rest[0][1], begins[0]) if len(rest) == 1 else []) or rest
    return Line(list(dict.fromkeys(begins)), _clean(parts))


def _split_stamps(row: str, hours: bool) -> tuple[str, list[tuple[float, str]], list[bool]]:
    """Words before the first usable stamp; (seconds, words after it) of each; whether it has the brackets of a word."""
    stamps = _stamps(row)
    ends = [stamp.start() for stamp in stamps[1:]] + [len(row)]
    before = row[: stamps[0].start()] if stamps else row
    pieces: list[tuple[float, str]] = []
    inside: list[bool] = []
    for stamp, end in zip(stamps, ends, strict=False):
        seconds, text = _value(stamp, hours), row[stamp.end() : end]
        if seconds is not None:
            pieces.append((seconds, text))
            inside.append(stamp[1] in "<＜")
        elif pieces:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + text)
        else:
            before += text
    return before, pieces, inside


def _read_late(before: str, pieces: list[tuple[float, str]]) -> Line:
    """A line with words before its first stamp: its own time at the end, or the end of those words."""
    if not any(text.strip() for _, text in pieces):
        return Line(list(dict.fromkeys(t for t, _ in pieces)), _clean([(pieces[0][0], before)]))
    begin = max(0.0, pieces[0][0] - USUAL_CHARACTER * len(before.strip()))
    return Line([begin], _clean([(begin, before), *pieces]))


def _split_marks(text: str, begin: float) -> list[tuple[float, str]]:
    """Words with milliseconds and lengths, before or after each; empty if there are none."""
    marks = list(_MARK.finditer(text))
    if not marks:
        return []
    starts = [int(mark[1]) / 1000 for mark in marks]
    shift = begin if starts[0] < begin else 0.0  # counted from the begin of the line
    if text[: marks[0].start()].strip():
        afters = [0, *(mark.end() for mark in marks)]
        words = [text[a : mark.start()] for a, mark in zip(afters, marks, strict=False)]
    else:
        befores = [*(mark.start() for mark in marks[1:]), len(text)]
        words = [text[mark.end() : b] for mark, b in zip(marks, befores, strict=True)]
    parts: list[tuple[float, str]] = []
    for mark, start, word in zip(marks, starts, words, strict=True):
        if parts and parts[-1][1] == "" and start + shift - parts[-1][0] < 0.002:
            parts.pop()
        parts += [(start + shift, word), (start + shift + int(mark[2]) / 1000, "")]
    return parts


def _clean(parts: list[tuple[float, str]], timed: bool = True) -> list[tuple[float, str]]:
    """Parts without markup and broken stamps, with no space around the line and single ones between its parts."""
    out: list[tuple[float, str]] = []
    last = ""
    for begin, text in parts:
        text = _BROKEN.sub("", _MARKUP.sub("", text))
        if not last:
            text = _SINGER.sub("", text, count=1) if timed else text
        if not last or last.isspace():
            text = text.lstrip()
        last = text[-1:] or last
        out.append((begin, text))
    for i in range(len(out) - 1, -1, -1):  # the line's trailing spaces, through parts that are nothing else
        out[i] = (out[i][0], out[i][1].rstrip())
        if out[i][1]:
            break
    return out
