"""Timed lyrics: reading what is found in the wild, and writing."""

from __future__ import annotations

import pytest

from jukebox.data.lrc import TimedLyrics, fit_times, format_lrc, parse_lrc, plain_text


def starts(timed: TimedLyrics | None) -> dict[str, float]:
    """Begin of each line."""
    assert timed is not None and len(timed.text) == len(timed.times)
    out, here = {}, 0
    for line in timed.text.split("\n"):
        out[line] = round(timed.times[here][0], 3)
        here += len(line) + 1
    return out


def test_lines() -> None:
    timed = parse_lrc(
        "\ufeff[ar:Someone]\n[ti:x]\n\nno time here\n[00:01.50] One two \r\n[00:03.5]three\n[01:00:25]four\n", 70.0
    )
    assert starts(timed) == {"One two": 1.5, "three": 3.5, "four": 60.25}
    assert timed is not None
    assert timed.times[6][1] == pytest.approx(3.5)  # a line lasts until the next
    assert timed.times[-1][1] == pytest.approx(62.25)  # but not for more than half a second a character
    assert timed.times[7] == (timed.times[6][1],) * 2  # a line end takes no time
    assert parse_lrc("[00:59.0]ab", 59.5).times[-1][1] == 59.5  # type: ignore[union-attr]


def test_repeated_lines_pauses_and_offset() -> None:
    timed = parse_lrc("[offset:+500]\n[00:10][00:20.00]again\n[00:15]between\n[00:15.80]\n")
    assert starts(parse_lrc("[00:10][00:20]again\n[00:15]between"))["between"] == 15.0
    assert timed is not None and timed.text == "again\nbetween\nagain"
    assert timed.times[0][0] == pytest.approx(9.5)
    assert timed.times[12][1] == pytest.approx(15.3)  # ended by the pause


def test_times_of_words_and_letters() -> None:
    timed = parse_lrc("[00:01.0]<00:01.0> La <00:01.5>lo<00:02.0> <00:02.5>li <00:03.0>\n[00:01.2]<00:01.2>early")
    assert timed is not None and timed.text == "La lo li\nearly"
    assert timed.times[0] == pytest.approx((1.0, 1.0 + 0.5 / 3))
    assert timed.times[3] == pytest.approx((1.5, 1.75))
    assert timed.times[7] == pytest.approx((2.75, 3.0))
    begins = [start for start, _ in timed.times]
    ends = [end for _, end in timed.times]
    assert begins == sorted(begins) and ends == sorted(ends)  # never back, whatever the file says


@pytest.mark.parametrize("content", ["", "only words\nand more", "[ar:x]\n[by:y]", "[xx:yy]words"])
def test_without_times_there_is_nothing(content: str) -> None:
    assert parse_lrc(content) is None


def test_plain_words() -> None:
    assert plain_text("[ar:x]\n[00:01.0]<00:01.0>La <00:02.0>lo\nbare line\n\n") == "La lo\nbare line"


def test_written_files_read_back() -> None:
    text = "ma lo\nti"
    times = [(0.5, 0.625), (0.625, 0.9), (0.9, 1.0), (1.0, 1.1), (1.1, 1.4), (1.4, 2.0), (2.0, 2.1), (2.1, 65.432)]
    content = format_lrc(text, times, dict(ar="Me"))
    assert content.startswith("[ar:Me]\n[00:00.500]<00:00.500>m<00:00.625>a")
    timed = parse_lrc(content.replace("01:05.432", "00:02.400"))
    assert timed is not None and timed.text == text
    for i in (0, 1, 2, 3, 4, 6):
        assert timed.times[i] == pytest.approx(times[i], abs=1e-6)


def test_times_for_another_layout_of_the_same_words() -> None:
    timed = TimedLyrics("la lo", ((0, 1), (1, 2), (2, 2.5), (3, 4), (4, 5)))
    fitted = fit_times("la\n\nlo ", timed)
    assert fitted is not None and fitted.times == ((0, 1), (1, 2), (2, 2), (2, 2), (3, 4), (4, 5), (5, 5))
    assert fit_times("la li", timed) is None and fit_times("la", timed) is None
