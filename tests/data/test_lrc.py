"""Timed lyrics: reading what is found in the wild, and writing."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import pytest

from jukebox.data.lrc import (
    FEW_TIMES,
    MOST_CHARACTERS,
    NO_TIME,
    ONE_TIME,
    TOO_LONG,
    Lyrics,
    fit_times,
    format_lrc,
    parse_lyrics,
    read_lyric_line,
    text_of_entries,
)
from jukebox.utils.errors import UserError


def starts(timed: Lyrics) -> dict[str, float]:
    """Begin of each line."""
    assert timed.times is not None and len(timed.text) == len(timed.times)
    out, here = {}, 0
    for line in timed.text.split("\n"):
        out[line] = round(timed.times[here][0], 3)
        here += len(line) + 1
    return out


def test_lines() -> None:
    timed = parse_lyrics(
        "\ufeff[ar:Someone]\n[ti:x]\n\nno time here\n[00:01.50] One two \r\n[00:03.5]three\n[01:00:25]four\n", 70.0
    )
    assert starts(timed) == {"One two": 1.5, "three": 3.5, "four": 60.25}
    assert timed.times is not None
    assert timed.times[6][1] == pytest.approx(3.5)  # a line lasts until the next
    assert timed.times[-1][1] == pytest.approx(62.25)  # but not for more than half a second a character
    assert timed.times[7] == (timed.times[6][1],) * 2  # a line end takes no time
    assert parse_lyrics("[00:59.0]ab", 59.5).times[-1][1] == 59.5


def test_repeated_lines_pauses_and_offset() -> None:
    timed = parse_lyrics("[offset:+500]\n[00:10][00:20.00]again\n[00:15]between\n[00:15.80]\n")
    assert starts(parse_lyrics("[00:10][00:20]again\n[00:15]between"))["between"] == 15.0
    assert timed.times is not None and timed.text == "again\nbetween\nagain"
    assert timed.times[0][0] == pytest.approx(9.5)
    assert timed.times[12][1] == pytest.approx(15.3)  # ended by the pause


def test_times_of_words_and_letters() -> None:
    timed = parse_lyrics("[00:01.0]<00:01.0> La <00:01.5>lo<00:02.0> <00:02.5>li <00:03.0>\n[00:01.2]<00:01.2>early")
    assert timed.times is not None and timed.text == "La lo li\nearly"
    assert timed.times[0] == pytest.approx((1.0, 1.0 + 0.5 / 3))
    assert timed.times[3] == pytest.approx((1.5, 1.75))
    assert timed.times[7] == pytest.approx((2.75, 3.0))
    begins = [start for start, _ in timed.times]
    ends = [end for _, end in timed.times]
    assert begins == sorted(begins) and ends == sorted(ends)  # never back, whatever the file says


@pytest.mark.parametrize("content", ["", "only words\nand more", "[ar:x]\n[by:y]", "[xx:yy]words"])
def test_without_times_there_is_nothing(content: str) -> None:
    assert parse_lyrics(content).times is None


def test_plain_words() -> None:
    found = parse_lyrics("[ar:x]\n[00:01.0]<00:01.0>La <00:02.0>lo\nlonger bare line\n\n")
    assert (found.text, found.times, found.notes) == ("La lo\nlonger bare line", None, ((FEW_TIMES, "La lo"),))
    plain = "la <3 lo [Chorus]\n\n  at 12:30 \n"
    assert parse_lyrics(plain) == Lyrics(plain)


def test_written_files_read_back() -> None:
    text = "ma lo\nti"
    times = [(0.5, 0.625), (0.625, 0.9), (0.9, 1.0), (1.0, 1.1), (1.1, 1.4), (1.4, 2.0), (2.0, 2.1), (2.1, 65.432)]
    content = format_lrc(text, times, dict(ar="Me"))
    assert content.startswith("[ar:Me]\n[00:00.500]<00:00.500>m<00:00.625>a")
    timed = parse_lyrics(content.replace("01:05.432", "00:02.400"))
    assert timed.times is not None and timed.text == text
    for i in (0, 1, 2, 3, 4, 6):
        assert timed.times[i] == pytest.approx(times[i], abs=1e-6)


def test_times_for_another_layout_of_the_same_words() -> None:
    timed = Lyrics("la lo", ((0, 1), (1, 2), (2, 2.5), (3, 4), (4, 5)))
    fitted = fit_times("la\n\nlo ", timed)
    assert fitted is not None and fitted.times == ((0, 1), (1, 2), (2, 2), (2, 2), (3, 4), (4, 5), (5, 5))
    assert fit_times("la li", timed) is None and fit_times("la", timed) is None


# ------------------------------------------------------------------------------------------------------ dialects


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # files of other programs
        (
            "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
            "Comment: 0,0:00:00.00,0:00:09.00,Default,,0,0,0,,no\n"
            "Dialogue: 0,0:00:07.25,0:00:08.00,Default,,0,0,0,,{\\k50}mi{\\k50}la, oh\n"
            "Dialogue: 0,0:00:09.00,0:00:10.00,Default,,0,0,0,,sola",
            {"mila, oh": 7.25, "sola": 9},
        ),
        (
            '<tt><head><metadata/></head><body dur="3:00"><p begin="7.25" end="8"><span begin="7.25" end="8">mi</span>'
            'la</p>\n<p begin="1:03.000" end="1:04.000">sola &amp; kalu</p></body></tt>',
            {"mila": 7.25, "sola & kalu": 63},
        ),
        ("\u200b[00:07.25]mila\n\u200e[00:09.50]\u200bsola", {"mila": 7.25, "sola": 9.5}),
        ("[00:07.25]v1: <00:07.25>mi<00:08.00>la\n[00:09.50]v2: sola", {"mila": 7.25, "sola": 9.5}),
        # a comma, one to nine digits, hours
        ("[00:07,25]mila", {"mila": 7.25}),
        ("[0:7]mila\n[0:9,5]sola", {"mila": 7, "sola": 9.5}),
        ("[02:03.4567]mila", {"mila": 123.4567}),
        ("[00:07.123456789]mila", {"mila": 7.123}),
        ("[00:07.]mila", {"mila": 7}),
        ("[00:00:07.25]mila", {"mila": 7.25}),
        ("[01:00:02,5]mila", {"mila": 3602.5}),
        ("[0:00:07:25]mila", {"mila": 7.25}),
        ("[00:01:05]mila sola timi\n[00:01:09]kalu", {"mila sola timi": 65, "kalu": 69}),  # too fast for hundredths
        ("[00:01:05]mi\n[00:03:09]kalu", {"mi": 1.05, "kalu": 3.09}),
        ("[00:59:50]mi\n[01:00:00]kalu", {"mi": 59.5, "kalu": 60}),
        # other writings of a stamp
        ("[ 00 : 07 . 25 ] mila", {"mila": 7.25}),
        ("［00：07．25］mila\n【00:08.25】sola", {"mila": 7.25, "sola": 8.25}),
        ("[00:07.25 mila", {"mila": 7.25}),
        ("[+00:07.25]mila\n[-00:00.50]sola", {"sola": 0, "mila": 7.25}),
        ("[7.25]mila\n[8.5s]sola", {"mila": 7.25, "sola": 8.5}),
        ("0:07 mila\n0:09 - sola\n", {"mila": 7, "sola": 9}),
        ("(0:07.5) mila", {"mila": 7.5}),
        # where it is
        ("mila [00:07.25]\nsola [00:08.50]", {"mila": 7.25, "sola": 8.5}),
        ("[00:07.25] [00:09.25]mila\n[00:08.00]sola", {"mila": 9.25, "sola": 8}),
        ("[ti:x][ar:y][00:07.25]mila[00:08.00]", {"mila": 7.25}),
        (
            "[ti:x][00:07.25]mila sola[00:08.50]timi kalu,[00:09.50]la lo",
            {"mila sola": 7.25, "timi kalu,": 8.5, "la lo": 9.5},
        ),
        ("[00:07.00][00:07.25]mi[00:07.50]la", {"mila": 7.25}),  # of the line, then of its words
        ("[00:01.00]F: mila\n[00:02.00]M:  sola", {"mila": 1, "sola": 2}),
        # offsets
        ("[offset:-500]\n[00:07]mila", {"mila": 7.5}),
        ("[Offset: +250.5]\n[00:07]mila", {"mila": 6.7495}),
        ("[00:07]mila\n[offset:1,5 s]", {"mila": 5.5}),
        # subtitles
        (
            "1\n00:00:07,250 --> 00:00:08,000\n<i>mila</i>\n\n2\n00:00:09,000 --> 00:00:10,000\nsola",
            {"mila": 7.25, "sola": 9},
        ),
        ("1\n00:00:07,250 --> 00:00:08,000\nmila\n2\n00:00:09,000 --> 00:00:10,000\nsola", {"mila": 7.25, "sola": 9}),
        ("WEBVTT\nKind: x\n\nNOTE no\nwords\n\none\n00:07.250 --> 00:08.000 align:start\n<v Ann>mila", {"mila": 7.25}),
        ("[00:07.250 --> 00:08.000]  mila", {"mila": 7.25}),
        ("7.250000\t8.000000\tmila", {"mila": 7.25}),
        ("[00:07.25-00:08.00] mila\n(0:09 – 0:10) sola", {"mila": 7.25, "sola": 9}),
        ("0:07 → 0:08 mila\n0:09 → 0:10 sola", {"mila": 7, "sola": 9}),
        ("[00:07.25]mila\r[00:09.00]sola\u2028[00:10.00]timi", {"mila": 7.25, "sola": 9, "timi": 10}),
        # wrapped
        ('<x><Lyric_1 LyricContent="[ti:a]&#10;[7250,500]mi(7250,250)la(7500,250)"/></x>', {"mila": 7.25}),
        (r"[00:07.25]mila\r\n[00:08.00]sola\n", {"mila": 7.25, "sola": 8}),
    ],
)
def test_dialects_of_lines(content: str, expected: dict[str, float]) -> None:
    assert starts(parse_lyrics(content)) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[00:03.00]step[00:03.30]ping [00:03.47]down[00:04.00] the lane", {"s": 3, "p": 3.3, "d": 3.47, " the": 4}),
        ("[00:03.00]<00:03.00> step <00:03.47> down <00:04.00>", {"s": 3, "d": 3.47}),
        ("<00:03.00>step <00:03.47>down", {"s": 3, "d": 3.47}),
        ("step [00:03.47]down [00:04.00]", {"s": 3.07, "d": 3.47}),
        ("[3000,900](3000,400,0)step (3470,430,0)down", {"s": 3, "d": 3.47}),
        ("[3000,900]<0,400,0>step <470,430,0>down", {"s": 3, "d": 3.47}),
        ("[3000,900]step (3000,400)down(3470,430)", {"s": 3, "d": 3.47}),
        ("[4]step (3000,400)down(3470,430)", {"s": 3, "d": 3.47}),
        ("[00:03.00]<0,400>step <470,430>down", {"s": 3, "d": 3.47}),
        ('{"t":0,"c":[{"tx":"by: Ann"}]}\n[3000,900](3000,400,0)step (3470,430,0)down', {"s": 3, "d": 3.47}),
        ("WEBVTT\n\n00:03.000 --> 00:05.000\n<c.red>step</c> <00:03.470>down", {"s": 3, "d": 3.47}),
    ],
)
def test_dialects_of_words(content: str, expected: dict[str, float]) -> None:
    timed = parse_lyrics(content)
    assert timed.text in ("stepping down the lane", "step down") and timed.times is not None
    for words, begin in expected.items():
        place = timed.text.rindex(words) if words != "s" else 0
        assert timed.times[place][0] == pytest.approx(begin, abs=1e-3), words


def test_ends_of_words_are_kept() -> None:
    timed = parse_lyrics("[3000,2000](3000,400,0)mi(4000,500,0)la")
    assert timed.times is not None and timed.text == "mila"
    assert timed.times[1][1] == pytest.approx(3.4) and timed.times[2][0] == pytest.approx(4.0)
    assert timed.times[3][1] == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[--:--.--]mila\n[xx:xx.xx]sola", "mila\nsola"),
        ("[00:xx.50]mila <1:2:3:4:5>sola", "mila sola"),
        ("[00'01\"50]mila\n[00-02-50]sola\n[0m03.5s]timi\n|00:04.50| kalu{00:05.00}", "mila\nsola\ntimi\nkalu"),
        ("{25}{50}mila\n{75}{100}sola", "mila\nsola"),
        ("[99999:00]mila", "mila"),
        ("[123456789,5]<0,300,0>mi<300,2>la", "mila"),
        ("mi<0,300,0>la", "mila"),
        ("[by:Ann][00:]mila", "mila"),
        ("[ti:Song]]\n[by: Ann\nmila", "mila"),
        ("[ti:Song [12:30]]\n[ar:x][ti:y [z]]mila", "mila"),
        ("[Chorus: Ann]\nmila\n[:]a remark\n[#:another]", "mila"),
        ("{\\an8}mila<br/>sola", "mila\nsola"),
        ("[00:01.00]", ""),
    ],
)
def test_what_gives_no_time_is_not_sung_either(content: str, words: str) -> None:
    assert (parse_lyrics(content).text, parse_lyrics(content).times) == (words, None)


def test_translations_on_the_same_stamp() -> None:
    content = "[00:01.00]mila sola\n[00:01.00]ミラ\n[00:02.00]timi\n[00:01.00]a third\n[00:02.00]timi\n[00:03.00]\n"
    first, second, third = (parse_lyrics(content, line=line) for line in (1, 2, 3))
    assert (first.text, second.text, third.text) == ("mila sola\ntimi", "ミラ\ntimi", "a third\ntimi")
    assert "the first is sung" in first.notes[0][0] and "number 2 is sung" in second.notes[0][0]
    assert parse_lyrics("[00:01.00]mila\n[00:01.00]mila").notes == ()  # twice the same
    words = parse_lyrics("[00:01.00]mila\n[00:01.00]<00:01.00>mi<00:01.50>la")
    assert words.times is not None and words.times[2][0] == 1.5  # the one with more times
    for wrong in (0, -1, 1.5, "2", True):
        with pytest.raises(UserError, match="lyric_line"):
            read_lyric_line(wrong)


@pytest.mark.parametrize(
    ("entries", "begins"),
    [
        ([dict(start=1.5, end=2.0, text=" mila "), dict(start=3, text="sola")], [1.5, 3]),
        ([dict(startTimeMs="1500", words="mila"), dict(startTimeMs="3000", words="sola")], [1.5, 3]),
        ([dict(time=61_500, text="mila"), dict(time=63_000, text="sola")], [61.5, 63]),
        ([dict(time=1, line="mila"), dict(time=3, line="sola")], [1, 3]),
        ([dict(timestamp="00:01,5", lyric="mila"), dict(timestamp="0:00:03", lyric="sola")], [1.5, 0.03]),
    ],
)
def test_lists_of_lines_with_times(entries: list[dict[str, Any]], begins: list[float]) -> None:
    timed = parse_lyrics(text_of_entries(entries) or "")
    assert timed.times is not None and set(timed.text.split("\n")) == {"mila", "sola"}
    assert sorted(timed.times[i][0] for i in (0, 5)) == pytest.approx(sorted(begins))
    assert text_of_entries([dict(x=1)]) is None
    assert text_of_entries([dict(text="a", start=float("nan")), dict(text="b", start="soon")]) == "a\nb"


def test_a_translation_a_hundredth_later() -> None:
    timed = parse_lyrics("[00:01.00]mila\n[00:01.01]ミラ\n[00:02.00]sola\n[00:02.02]ソラ")
    assert starts(timed) == {"mila": 1, "sola": 2}
    assert parse_lyrics("[00:01.00]mi\n[00:01.05]la").text == "mi\nla"


def test_one_stamp_for_all_lines_is_no_time() -> None:
    lines = ["mila", "sola", "timi", "kalu", "mesi", "loki"]
    for n in (3, 6):
        found = parse_lyrics("\n".join(f"[00:00.00]{words}" for words in lines[:n]))
        assert (found.text, found.times) == ("\n".join(lines[:n]), None) and found.notes[0][0] == ONE_TIME
    credits = "\n".join(f"[00:00.00]{words}" for words in lines[:3]) + "\n[00:05.00]la\n[00:06.00]lo"
    assert starts(parse_lyrics(credits)) == {"mila": 0, "la": 5, "lo": 6}


def test_lines_without_a_time_are_named() -> None:
    assert parse_lyrics("[00:01.00]mila sola\ntimi").notes == ((NO_TIME, "timi"),)


def test_a_small_file_cannot_ask_for_gigabytes() -> None:
    begin = time.process_time()
    many = "".join(f"[{i // 60:02d}:{i % 60:02d}.00]" for i in range(2000)) + "x" * 20_000
    found = parse_lyrics(many)
    assert len(found.text) <= MOST_CHARACTERS and found.notes[0][0] == TOO_LONG
    for piece in (
        "[",
        "[ ",
        "<",
        "[00:01",
        "0:",
        "{\\",
        "[a:",
        "(1,",
        "<1,2",
        "[1,2](1,2)",
        "-->",
        "1\n",
        "[0:0:",
        " ",
    ):
        parse_lyrics("[" + piece * (40_000 // len(piece)))
    assert time.process_time() - begin < 15


def written_at_random(draw: random.Random) -> str:
    """A line or a tag of a random dialect; its words have no digits, colons and brackets."""

    def words() -> str:
        return " ".join(draw.choices("mila sola timi kalu la ma'm, oh! ミラ ёлка".split(), k=draw.randint(1, 4)))

    def clock() -> str:
        hours = f"{draw.randint(0, 3):02d}:" if draw.random() < 0.3 else ""
        fraction = draw.choice(["", ".", ",", ":"])
        digits = "".join(draw.choices("0123456789", k=draw.randint(1, 4))) if fraction else ""
        return f"{hours}{draw.randint(0, 99):02d}:{draw.randint(0, 59):02d}{fraction}{digits}"

    def stamp() -> str:
        return draw.choice(["[{}]", "[ {} ]", "<{}>", "［{}］"]).format(draw.choice(["", "+", "-"]) + clock())

    def mark(form: str) -> str:
        return form.format(draw.randint(0, 99_999), draw.randint(0, 999))

    head = f"[{draw.randint(0, 99_999)},{draw.randint(0, 9999)}]"
    return draw.choice(
        [
            stamp() + words(),
            f"{stamp()} {stamp()}{words()}",
            f"{words()} {stamp()}",
            stamp() + "".join(words() + stamp() for _ in range(3)),
            head + "".join(mark("({},{},0)") + words() for _ in range(3)),
            head + "".join(mark("<{},{},0>") + words() for _ in range(3)),
            head + "".join(words() + mark("({},{})") for _ in range(3)),
            f"\n{clock()} --> {clock()}\n{words()}\n",
            draw.choice(["[ar:Ann 3]", "[offset:+12.5]", "[length:03:12.50]", "[#:12]", "[ti:Song [1999]]"]),
            words(),
        ]
    )


def test_no_stamp_and_no_tag_is_ever_sung() -> None:
    draw = random.Random(0)
    for _ in range(600):
        content = "\n".join(written_at_random(draw) for _ in range(draw.randint(1, 6)))
        assert not re.search(r"[\d:<>［］\[\]]|-->", parse_lyrics(content).text), content


def mutated(text: str, draw: random.Random) -> str:
    """The text with some of it cut out, doubled or replaced."""
    for _ in range(draw.randint(1, 8)):
        a = draw.randrange(len(text) + 1)
        b = min(len(text), a + draw.randint(0, 12))
        new = draw.choice(
            ["", text[a:b] * 2, "".join(draw.choices("[]<>(){}:,.-0123456789\\ntöx ", k=draw.randint(1, 5)))]
        )
        text = text[:a] + new + text[b:]
    return text


def test_broken_files_never_raise() -> None:
    seeds = [
        "[ar:Ann]\n[offset:+20]\n[00:01.00]mila [00:01.50]sola\n[00:02,5][00:07.25]timi\n",
        "[12340,3200](12340,300,0)mi(12640,200,0)la\n[15540,900]<0,300,0>so<300,600,0>la\n",
        "1\n00:00:07,250 --> 00:00:08,000\nmila\n\n2\n00:00:09,000 --> 00:00:10,000\nsola\n",
    ]
    draw = random.Random(0)
    for i in range(700):
        content = mutated(seeds[i % 3], draw)
        found = parse_lyrics(content, draw.choice([None, 5.0]), draw.choice([1, 2]))
        assert found.times is None or len(found.times) == len(found.text)
        begins = [start for start, _ in found.times or ()]
        assert begins == sorted(begins) and all(0 <= start <= 86_400 for start in begins), content
