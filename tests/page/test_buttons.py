"""The buttons of the player page, its links and its second language, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Seen, until

from jukebox.save_html import save_html, save_joined_page

SR = 8000
SECONDS = 0.6
LYRICS = "la <b>la</b>\n\nle $& lu"
OWN = "Item 7"  # a user's title that reads like the page's own words


def make_level(folder: Path, n: int, **hps: Any) -> None:
    x = 0.3 * np.sin(np.arange(n * int(SR * SECONDS))).reshape(n, -1, 1)
    infos = [
        {"artist": "Next", "genre": "Settings", "lyrics": LYRICS, "title": OWN if i == 1 else ""} for i in range(n)
    ]
    zs = [np.arange(n * 40).reshape(n, 40)]
    y = np.array([[240 * SR, 60 * SR, 1000, 1, 1]] * n)
    save_html(folder, x, zs, {"y": y, "info": infos}, None, {"sr": SR, "name": str(folder.parent), **hps})


AGAIN = {
    "model": "demo",
    "n_samples": 3,
    "lyrics": "it's <la>\\la",
    "temp": [0.9, 0.99],
    "audio_file": "/home/me/a.mp3",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three levels of three songs."""
    for level in (2, 1, 0):
        make_level(tmp_path / f"level_{level}", 3, again=AGAIN, prompt_seconds=0.15, audio_file="/home/me/a.mp3")
    return tmp_path


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1000, "height": 900}, locale="en-GB")
    yield context
    context.close()


def opened(context: Any, path: Path) -> Any:
    page = context.new_page()
    page.seen = Seen(page)
    page.goto(path.as_uri())
    return page


# The number of the song that plays, -1 for none.
PLAYING = "[...document.querySelectorAll('audio')].findIndex((audio) => !audio.paused)"


def test_play_all_goes_through_the_songs_and_stops(run: Path, context: Any) -> None:
    page = opened(context, run / "level_0" / "index.html")
    button = page.locator(".bar .all")
    page.evaluate("""() => {
      window.heard = [];
      document.querySelectorAll("audio").forEach((audio, i) => audio.addEventListener("ended", () => heard.push(i)));
    }""")
    button.click()
    until(page, f"{PLAYING} === 0")
    assert button.inner_text() == "Stop"
    until(page, "heard.join() === '0,1,2'")
    until(page, "document.querySelector('.all').textContent === 'Play all'")
    assert page.evaluate(PLAYING) == -1
    button.click()  # from the beginning again
    until(page, f"{PLAYING} === 0")
    button.click()
    until(page, f"{PLAYING} === -1")
    page.wait_for_timeout(100)
    assert page.evaluate("heard.length") == 3 and button.inner_text() == "Play all"
    page.evaluate("document.querySelectorAll('audio')[1].play()")  # a single song is not followed by the next
    until(page, "heard.length === 4")
    page.wait_for_timeout(100)
    assert page.evaluate(PLAYING) == -1
    assert page.seen.errors == []


def test_next_and_previous(run: Path, context: Any) -> None:
    page = opened(context, run / "level_0" / "index.html")
    for button, song in (("next", 1), ("next", 2), ("previous", 1), ("previous", 0), ("previous", 2), ("next", 0)):
        page.locator(f".bar .{button}").click()
        until(page, f"{PLAYING} === {song}")
    assert page.evaluate("[...document.querySelectorAll('audio')].filter((audio) => !audio.paused).length") == 1


def test_favourites_are_kept_for_the_song_at_all_levels(run: Path, context: Any) -> None:
    page = opened(context, run / "level_0" / "index.html")
    pressed = "[...document.querySelectorAll('.favourite')].map((each) => each.getAttribute('aria-pressed')).join()"
    assert page.evaluate(pressed) == "false,false,false"
    page.locator("#item_1 .favourite").click()
    page.locator("#item_2 .favourite").press("Enter")
    assert page.evaluate(pressed) == "false,true,true"
    page.locator("#item_2 .favourite").click()
    page.reload()
    assert page.evaluate(pressed) == "false,true,false"
    assert page.locator("nav .liked").inner_text() == "1"
    sketch = opened(context, run / "level_2" / "index.html")
    assert sketch.evaluate(pressed) == "false,true,false"
    sketch.locator("#item_1 .favourite").click()
    until(page, f"{pressed} === 'false,false,false'")  # the other page hears of it


def test_a_browser_that_keeps_nothing_still_plays(run: Path, context: Any) -> None:
    context.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } })")
    page = opened(context, run / "level_0" / "index.html")
    page.locator("#item_1 .favourite").click()
    assert page.locator("#item_1 .favourite").get_attribute("aria-pressed") == "true"
    page.locator(".bar .next").click()
    until(page, f"{PLAYING} === 1")
    assert page.seen.errors == []


@pytest.mark.parametrize("clipboard", [True, False])
def test_lyrics_and_command_can_be_copied(run: Path, context: Any, clipboard: bool) -> None:
    if clipboard:
        context.grant_permissions(["clipboard-read", "clipboard-write"])
    else:
        context.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page = opened(context, run / "level_0" / "index.html")
    command = (
        f"python -m jukebox.sample --name={run.name} --model=demo --n_samples=3 --lyrics='it'\"'\"'s <la>\\la' "
        "--temp=0.9,0.99 --audio_file=a.mp3"
    )
    for button, text in (("#item_1 .copy", LYRICS), ("footer .copy", command)):
        page.locator(button).click()
        if clipboard:
            until(page, f"document.querySelector('{button}').previousElementSibling.textContent === 'Copied'")
            assert page.evaluate("navigator.clipboard.readText()") == text
        else:
            until(page, f"document.querySelector('{button}').previousElementSibling.textContent.startsWith('Select')")
            assert page.evaluate("getSelection().toString()").split() == text.split()


def test_levels_are_linked_with_each_other(run: Path, context: Any) -> None:
    page = opened(context, run / "level_2" / "index.html")
    links = page.locator("nav[aria-label=Levels] a")
    assert links.all_inner_texts() == ["Level 0", "Level 1", "Level 2"]
    assert page.locator("nav [aria-current=page]").inner_text() == "Level 2"
    links.first.click()
    page.wait_for_url("**/level_0/index.html")
    assert page.locator("nav [aria-current=page]").inner_text() == "Level 0"


def test_the_end_of_the_prompt_is_marked(run: Path, context: Any) -> None:
    page = opened(context, run / "level_0" / "index.html")
    wave, line = (page.locator(f"#item_0 {each}").bounding_box() for each in (".wave", ".prompt line"))
    assert line["x"] == pytest.approx(wave["x"] + 0.25 * wave["width"], abs=1)
    assert line["height"] == pytest.approx(wave["height"], abs=1)
    text = page.locator("#item_0 .prompt text")
    assert text.text_content() == "End of the prompt" and text.bounding_box()["x"] > line["x"]
    make_level(run / "level_0", 1)
    page.reload()
    assert page.locator(".prompt").count() == 0


# Every word of the page itself, and where it is.
WORDS = """[...document.querySelectorAll("[data-say]")].flatMap((element) => [
  element.childElementCount ? "" : element.textContent, ...["aria-label", "alt", "data-column", "aria-valuetext"].map(
    (name) => element.getAttribute(name) ?? "")]).filter((text) => /[a-z]{4}/i.test(text))"""
JAPANESE = r"/[\u3040-\u30ff\u4e00-\u9fff]/"


@pytest.mark.parametrize("languages, japanese", [
    (["ja-JP", "en"], True), (["fr", "ja"], True), (["en-US", "ja"], False), (["fr"], False), ([], False),
])  # fmt: skip
def test_the_language_is_the_one_that_the_browser_asks_for(
    run: Path, context: Any, languages: list[str], japanese: bool
) -> None:
    context.add_init_script(f"Object.defineProperty(navigator, 'languages', {{ value: {languages} }})")
    page = opened(context, run / "level_0" / "index.html")
    assert page.evaluate("document.documentElement.lang") == ("ja" if japanese else "en")
    words = page.evaluate(WORDS)
    said = page.evaluate(f"{WORDS}.filter((text) => {JAPANESE}.test(text))")
    assert said == (words if japanese else []) and len(page.evaluate("document.querySelectorAll('[data-say]')")) > 20
    assert page.seen.errors == []
    # what users wrote stays, though it reads like the page's words
    assert page.locator("#title_1").inner_text() == OWN
    assert page.locator("#item_0 dd").all_inner_texts()[:2] == ["Next", "Settings"]
    assert page.locator("#item_1 audio").get_attribute("aria-label").count(OWN) == 1
    assert page.locator("#title_0").inner_text() == ("曲 0" if japanese else "Item 0")
    assert page.locator("#item_0 audio").get_attribute("aria-label") == (
        "曲 0 のプレーヤー" if japanese else "Player of Item 0"
    )
    if japanese:
        page.locator(".bar .all").click()
        until(page, "document.querySelector('.all').textContent === '停止'")


def test_the_page_of_several_processes_has_the_same_buttons(run: Path, context: Any) -> None:
    songs = [(f"Song {i}", f"../level_0/item_{i % 3}.wav", "../level_0/index.html") for i in range(2)]
    page = opened(context, save_joined_page(run / "joined", [*songs, ("Song 2", "later.wav", "later/index.html")]))
    page.locator("#item_0 .favourite").click()
    page.locator(".bar .all").click()
    until(page, f"{PLAYING} === 1")
    until(page, "document.querySelector('.all').textContent === 'Play all'")  # the third is not made yet
    page.reload()
    assert page.locator("#item_0 .favourite").get_attribute("aria-pressed") == "true"
