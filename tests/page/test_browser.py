"""The page in a real browser: headless Chromium opens it from disk, plays it and looks at what lights up.

Needs Debian's `chromium` and the package `playwright`; without them the tests are skipped and say what installs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import Seen, until

from jukebox.save_html import save_html

TITLE = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path: Path, song) -> Path:
    tokens = list(range(len(song.lyrics)))
    infos = [
        {"title": TITLE, "artist": TITLE, "genre": "rock", "lyrics": song.lyrics, "full_tokens": tokens},
        {"artist": "Ada", "genre": "jazz", "lyrics": song.lyrics, "full_tokens": tokens},
        {"artist": "n/a", "genre": "n/a", "lyrics": "", "full_tokens": []},
    ]
    y = np.array([[240 * song.sr, 0, 1000, 1, 1]] * 3)
    hps = {"sr": song.sr, "name": "my run", "model": "demo", "seed": 0, "temp": [0.98, 0.99], "mode": TITLE}
    folder = tmp_path / "level_0"
    zs = [np.zeros((3, 600), int)]
    save_html(folder, np.repeat(song.x, 3, axis=0), zs, {"y": y, "info": infos}, [song.alignment, None, None], hps)
    return folder


@pytest.fixture
def opened(browser, folder: Path) -> Iterator[tuple[Any, Seen]]:
    """The page, opened from disk, and what it did; afterwards: it had no error and asked only for its own files."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    seen = Seen(page)
    page.goto((folder / "index.html").as_uri())
    yield page, seen
    page.close()
    assert seen.errors == []
    for url in seen.requests:
        parts = urlsplit(url)
        assert parts.scheme in ("file", "data", "blob"), url
        assert parts.scheme != "file" or url.startswith(folder.as_uri()), url


# Plays an item from `start` for `seconds` and notes, at every frame, the time and what is lit.
WATCH = """async ([item, start, seconds]) => {
  const audio = document.querySelector(`#item_${item} audio`), lyrics = document.querySelector(`#item_${item} .lyrics`);
  const notes = [];
  audio.currentTime = start;
  await audio.play();
  await new Promise((done) => {
    const note = () => {
      const now = lyrics.querySelectorAll(".now");
      notes.push([audio.currentTime, Number(lyrics.dataset.lit), [...now].map((each) => each.textContent)]);
      if (audio.currentTime < start + seconds && !audio.ended) requestAnimationFrame(note); else done();
    };
    requestAnimationFrame(note);
  });
  audio.pause();
  return notes;
}"""


def test_lyrics_follow_the_audio(opened, song) -> None:
    page, _ = opened
    for start, seconds in [(0.0, 1.5), (4.0, 1.5)]:
        notes = page.evaluate(WATCH, [0, start, seconds])
        for second, lit, now in notes:
            near = {song.at(t) for t in np.linspace(second - 0.1, second + 0.1, 201)}  # within 100 ms
            assert lit in near, f"at {second} s character {lit} is lit, sung are {sorted(near)}"
            visible = lit >= 0 and song.lyrics[lit] != "\n"
            assert now == ([song.lyrics[lit]] if visible else [])
        order = [lit for _, lit, _ in notes if lit >= 0]
        sung = {song.at(second) for second, _, _ in notes} - {-1}  # as many as there were frames to show them
        assert order == sorted(order) and len(set(order)) >= max(3, len(sung) - 2), "the light hardly moved"


def test_seeking_moves_the_light_at_once(opened, song) -> None:
    page, _ = opened
    state = """(time) => {
      const slider = document.querySelector("#item_0 .seek"), lyrics = document.querySelector("#item_0 .lyrics");
      slider.value = time;
      slider.dispatchEvent(new Event("input"));
      const sung = [...lyrics.querySelectorAll("p")].map((line) => line.className === "sung" ? line.textContent :
        [...line.querySelectorAll(".sung")].map((span) => span.textContent).join(""));
      return [document.querySelector("#item_0 audio").currentTime, Number(lyrics.dataset.lit), sung,
              lyrics.innerText, slider.getAttribute("aria-valuetext")];
    }"""
    for second in [3.0, 5.9, 1.0, 0.0, *(song.starts[[0, 20, 40, -1]] + 0.015)]:
        current, lit, sung, text, spoken = page.evaluate(state, float(second))
        assert current == pytest.approx(second, abs=0.01)
        assert lit == song.at(current)
        done = lit if lit >= 0 else len(song.lyrics) if second > song.end else 0
        assert "".join(sung) == song.lyrics[:done].replace("\n", "")
        assert text.replace("\n", "") == song.lyrics.replace("\n", "")  # nothing is lost on the way
        assert spoken == f"0:0{int(current + 0.5)} of 0:06"  # rounded, not cut


@pytest.mark.parametrize("width", [1200, 360])
def test_the_light_stays_in_view_in_one_long_line(browser, song, tmp_path: Path, width: int) -> None:
    lyrics, rows = "la " * 400, 600
    alignment = np.zeros((rows, len(lyrics)))
    alignment[np.arange(rows), np.arange(rows) * len(lyrics) // rows] = 1.0
    info = {"artist": "Ada", "genre": "jazz", "lyrics": lyrics, "full_tokens": [1] * len(lyrics)}
    save_html(tmp_path / "level_0", song.x, [], {"info": [info]}, [alignment], {"sr": song.sr})
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.emulate_media(reduced_motion="reduce")
    page.goto((tmp_path / "level_0" / "index.html").as_uri())
    where = """(time) => {
      const slider = document.querySelector(".seek"), panel = document.querySelector(".lyrics");
      slider.value = time;
      slider.dispatchEvent(new Event("input"));
      const now = panel.querySelector(".now").getBoundingClientRect(), view = panel.getBoundingClientRect();
      return [now.top >= view.top - 1, now.bottom <= view.bottom + 1];
    }"""
    times = [0.5, 2.05, 5.5, 4.05, 0.5]
    assert [page.evaluate(where, time) for time in times] == [[True, True]] * len(times)
    page.close()


def test_waveform_and_lines_can_be_clicked(opened, song) -> None:
    page, _ = opened
    box = page.locator("#item_0 .seek").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    second = page.evaluate("document.querySelector('#item_0 audio').currentTime")
    assert second == pytest.approx(0.75 * song.seconds, abs=0.05)
    played = page.evaluate("getComputedStyle(document.querySelector('#item_0')).getPropertyValue('--at')")
    assert float(played.rstrip("%")) == pytest.approx(75, abs=1)

    start = song.lyrics.index("and of")
    page.locator("#item_0 .lyrics p", has_text="and of").click(position={"x": 5, "y": 5})
    second = page.evaluate("document.querySelector('#item_0 audio').currentTime")
    assert second == pytest.approx(song.starts[start], abs=0.002)
    assert page.locator("#item_0 .now").inner_text() == "a"


def test_keyboard_reaches_and_moves_everything(opened, song) -> None:
    page, _ = opened
    focus = """() => {
      const element = document.activeElement;
      return [element.tagName, element.className, element.closest(".item")?.id ?? ""];
    }"""
    current = "document.querySelector('#item_0 audio').currentTime"
    paused = "document.querySelector('#item_0 audio').paused"
    met = []
    for _ in range(12):
        page.keyboard.press("Tab")
        tag, name, item = page.evaluate(focus)
        met.append((tag, name, item))
        if tag == "AUDIO":
            break
        if name == "seek":
            page.keyboard.press("ArrowRight")
            page.keyboard.press("ArrowRight")
            assert page.evaluate(current) == pytest.approx(2.0)
            page.keyboard.press("ArrowLeft")
            assert page.evaluate(current) == pytest.approx(1.0)
            page.keyboard.press("End")
            assert page.evaluate(current) == pytest.approx(song.seconds)
            page.keyboard.press("Home")
            assert page.evaluate(current) == 0.0
            page.keyboard.press("Space")
            until(page, f"{current} > 0.1")
            page.keyboard.press("Space")
            assert page.evaluate(paused)
    assert met[0] == ("A", "skip", "")
    assert [m[:2] for m in met if m[2] == "item_0"] == [
        ("BUTTON", "favourite"),
        ("A", "download"),
        ("INPUT", "seek"),
        ("AUDIO", ""),
    ]
    page.keyboard.press("Space")  # the browser's own play button
    until(page, f"!{paused}")
    page.keyboard.press("Space")
    until(page, paused)


def test_focus_can_be_seen(opened) -> None:
    page, _ = opened
    page.keyboard.press("Tab")
    for selector in (".skip", "nav a", ".all", ".favourite", ".download", ".seek", ".copy", ".lyrics"):
        page.locator(selector).first.focus()
        style = page.evaluate("getComputedStyle(document.activeElement).outline")
        assert "3px" in style and "solid" in style, (selector, style)


def test_one_item_plays_at_a_time(opened) -> None:
    page, _ = opened
    result = page.evaluate("""async () => {
      const [first, second] = document.querySelectorAll("audio");
      await first.play();
      await second.play();
      const states = [first.paused, second.paused];
      second.pause();
      return states;
    }""")
    assert result == [True, False]


def test_two_that_start_at_once_do_not_stop_each_other(opened) -> None:
    page, _ = opened
    page.evaluate("document.querySelectorAll('audio').forEach((audio) => { audio.play().catch(() => {}); })")
    until(page, "[...document.querySelectorAll('audio')].filter((audio) => audio.currentTime > 0.3).length === 1")
    assert page.evaluate("[...document.querySelectorAll('audio')].filter((audio) => !audio.paused).length") == 1


def test_users_text_stays_text(opened, song) -> None:
    page, _ = opened
    assert page.locator("#title_0").inner_text() == TITLE
    assert page.locator("#item_0 dd").first.inner_text() == TITLE
    assert page.evaluate("document.scripts.length") == 2
    assert page.evaluate("document.querySelectorAll('.lyrics b').length") == 0
    lines = page.evaluate("[...document.querySelectorAll('#item_1 .lyrics p')].map((p) => p.textContent)")
    assert lines == song.lyrics.split("\n")
    assert "do not light up" in page.locator("#item_1 .quiet").inner_text()
    assert page.locator("#item_2 .lyrics").count() == 0


def test_pictures_and_audio_are_there(opened, song) -> None:
    page, seen = opened
    until(page, "[...document.querySelectorAll('audio')].every((a) => a.readyState >= 1)")
    assert page.evaluate("document.querySelector('.picture img').naturalWidth") == len(song.alignment)
    assert page.evaluate("document.querySelector('.picture img').naturalHeight") == len(song.lyrics)
    lengths = page.evaluate("[...document.querySelectorAll('audio')].map((a) => a.duration)")
    assert lengths == pytest.approx([song.seconds] * 3, abs=0.01)
    assert len(seen.requests) >= 5


def test_screen_reader_meets_names_and_whole_lines(opened, song) -> None:
    page, _ = opened
    page.evaluate("document.querySelector('#item_0 audio').currentTime = 2.5")
    until(page, "document.querySelector('#item_0 .lyrics').dataset.lit > 0")
    tree = page.locator("body").aria_snapshot()
    for part in ("- banner", "- main", "- contentinfo", 'navigation "Items"', 'slider "Position in Item 1"'):
        assert part in tree, part
    assert 'region "Lyrics of Item 1"' in tree and f'heading "{TITLE}" [level=2]' in tree
    # only the line that is being sung is in pieces
    pieces = page.evaluate("[...document.querySelectorAll('#item_0 .lyrics p')].map((p) => p.children.length)")
    assert sum(count > 0 for count in pieces) == 1 and max(pieces) <= 2


@pytest.mark.parametrize("width, height, scheme", [(1280, 900, "light"), (360, 740, "dark")])
def test_fits_the_screen(browser, folder: Path, tmp_path: Path, width: int, height: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
    page.goto((folder / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(c) for c in ground[4:-1].split(",")) > 3 * 128) == (scheme == "light")
    assert page.evaluate("getComputedStyle(document.querySelector('.lyrics')).scrollBehavior") == "auto"
    words, picture = (page.locator(s).bounding_box() for s in ("#item_0 .words", "#item_0 .alignment"))
    side_by_side = picture["x"] > words["x"] + words["width"] / 2
    assert side_by_side == (width > 1000)
    shot = page.screenshot(path=str(tmp_path / f"page_{width}.png"), full_page=True)
    assert shot[:4] == b"\x89PNG"
    page.close()


def test_without_script_the_page_can_be_read_and_heard(browser, folder: Path, song) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "index.html").as_uri())
    assert page.locator("#item_0 .lyrics p").all_inner_texts() == song.lyrics.split("\n")
    assert page.locator("#item_0 audio").get_attribute("controls") == ""
    context.close()
