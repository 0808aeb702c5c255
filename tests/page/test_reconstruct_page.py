"""The page of `reconstruct.py` in a real browser: it is opened from disk, played, and switched between levels.

Needs Debian's `chromium` and the package `playwright`; without them the tests are skipped and say what installs them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from browser import Seen, until
from tiny_models import VQVAE

from jukebox.data.synthesizer import make_song
from jukebox.hparams import setup_hparams
from jukebox.make_models import make_vqvae
from jukebox.reconstruction.reconstructor import Reconstructor
from jukebox.utils.audio.write import write_audio

SR = 8000
SECONDS = [24.0, 4.0]
TITLE = '<script>alert(1)</script> & "two".wav'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two songs, the first with a name that would be markup."""
    place = tmp_path_factory.mktemp("reconstructed")
    torch.manual_seed(0)
    vqvae = make_vqvae(setup_hparams("", {**VQVAE, "sr": SR}), "cpu").eval()
    for block in vqvae.bottleneck.blocks:
        block.k.normal_()
    job = Reconstructor(vqvae, SR, "logs/my <i>run", place / "<b>out", [0, 1, 2])
    for i, seconds in enumerate(SECONDS):
        write_audio(place / f"{i}.wav", make_song(i, SR, seconds).audio, SR)
        job.run(str(place / f"{i}.wav"), TITLE if i == 0 else "plain.wav")
    return place / "<b>out"


LOADED = "[...document.querySelectorAll('audio')].every((player) => player.readyState >= 1)"


@pytest.fixture
def opened(browser: Any, folder: Path) -> Iterator[Any]:
    """The page, opened from disk; afterwards: it had no error and asked only for its own files."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    seen = Seen(page)
    page.goto((folder / "index.html").as_uri())
    until(page, LOADED)
    yield page
    page.close()
    assert seen.errors == []
    assert len(seen.requests) > 8
    for url in seen.requests:
        assert urlsplit(url).scheme == "data" or url.startswith(folder.as_uri()), url


# State of the players of a song: [seconds, whether it plays] of each version, and the playhead in percent.
STATE = """(item) => {
  const section = document.querySelector(`#item_${item}`);
  const players = [...section.querySelectorAll("audio")].map((audio) => [audio.currentTime, !audio.paused]);
  const head = parseFloat(getComputedStyle(section).getPropertyValue("--at"));
  return [players, head, [...section.querySelectorAll(".version")].findIndex((v) => v.classList.contains("on"))];
}"""


def playing(page: Any, item: int) -> list[int]:
    return [i for i, (_, plays) in enumerate(page.evaluate(STATE, item)[0]) if plays]


def place(page: Any, item: int, version: int) -> float:
    return page.evaluate(STATE, item)[0][version][0]


SLACK = 0.25  # seconds by which a player may be off, on a machine that has other things to do

# Starts a version and says where the one that played was, where this one is, and the seconds between.
PLAY = """async ([item, version]) => {
  const players = [...document.querySelectorAll(`#item_${item} audio`)];
  const last = players.find((player) => !player.paused);
  const before = last ? last.currentTime : null, start = performance.now();
  await players[version].play();
  return [before, players[version].currentTime, (performance.now() - start) / 1000];
}"""


def play(page: Any, item: int, version: int, since: float | None = None) -> None:
    """Starts a version; it continues at `since`, or where the one that played was."""
    before, after, seconds = page.evaluate(PLAY, [item, version])
    before = before if since is None else since
    assert before - SLACK <= after <= before + seconds + SLACK
    assert playing(page, item) == [version]


def test_players_and_pictures_load(opened: Any) -> None:
    lengths = opened.evaluate("[...document.querySelectorAll('audio')].map((a) => a.duration)")
    assert lengths == pytest.approx([SECONDS[0]] * 4 + [SECONDS[1]] * 4, abs=0.01)
    opened.evaluate("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
    until(opened, "[...document.images].every((image) => image.complete && image.naturalHeight === 192)")
    widths = opened.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert widths == [int(s * SR) // 256 + 1 for s in SECONDS for _ in range(4)]
    assert opened.locator(".axis text").count() >= 8 * 3


def reached(page: Any, item: int, version: int, seconds: float) -> None:
    until(page, f"document.querySelectorAll('#item_{item} audio')[{version}].currentTime >= {seconds}")


# Moves a player as its own slider does, and waits until all events of it are over.
SEEK = """([item, version, seconds]) => new Promise((done) => {
  const player = document.querySelectorAll(`#item_${item} audio`)[version];
  player.addEventListener("seeked", done, { once: true });
  player.currentTime = seconds;
})"""


def seek(page: Any, item: int, version: int, seconds: float) -> None:
    page.evaluate(SEEK, [item, version, seconds])


def test_another_level_goes_on_from_the_same_place(opened: Any) -> None:
    play(opened, 0, 0, since=0.0)
    reached(opened, 0, 0, 0.6)
    play(opened, 0, 2)
    reached(opened, 0, 2, 1.0)
    play(opened, 0, 0)
    assert place(opened, 0, 0) >= 1.0
    opened.evaluate("document.querySelectorAll('#item_0 audio')[0].pause()")
    until(opened, "document.querySelectorAll('.version.on').length === 0")
    assert opened.evaluate(STATE, 0)[1] == pytest.approx(100 * place(opened, 0, 0) / SECONDS[0], abs=0.1)


def test_the_version_that_plays_is_marked(opened: Any) -> None:
    for version in (3, 1):
        opened.evaluate(PLAY, [0, version])
        assert opened.evaluate(STATE, 0)[2] == version


def test_a_pause_and_a_seek_are_taken_over(opened: Any) -> None:
    """Paused or not, a place that was chosen on one version holds for all; the end is followed by the beginning."""
    seek(opened, 0, 1, 3)
    play(opened, 0, 3, since=3.0)
    opened.evaluate("document.querySelectorAll('#item_0 audio')[3].pause()")
    seek(opened, 0, 0, 1)  # not the one that played last
    play(opened, 0, 3, since=1.0)
    seek(opened, 0, 0, 20)  # while version 3 plays
    reached(opened, 0, 3, 20)
    assert playing(opened, 0) == [3]
    seek(opened, 0, 3, SECONDS[0] - 0.2)
    until(opened, "document.querySelectorAll('#item_0 audio')[3].ended")
    play(opened, 0, 1, since=0.0)


def test_a_click_into_a_spectrogram_goes_there(opened: Any) -> None:
    picture = opened.locator("#item_0 .picture").nth(1)
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    opened.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    assert opened.evaluate(STATE, 0)[1] == pytest.approx(50, abs=0.5)
    opened.keyboard.press("2")  # the click has put the focus into the song
    until(opened, "!document.querySelectorAll('#item_0 audio')[1].paused")
    assert place(opened, 0, 1) >= 0.49 * SECONDS[0]
    opened.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert 0.24 * SECONDS[0] <= place(opened, 0, 1) < 0.49 * SECONDS[0]


def test_keys_switch_within_the_song_that_has_the_focus(opened: Any) -> None:
    opened.keyboard.press("1")
    assert playing(opened, 0) == [] and playing(opened, 1) == []  # no song has the focus yet
    met = []
    for _ in range(40):
        opened.keyboard.press("Tab")
        met.append(opened.evaluate("[document.activeElement.tagName, document.activeElement.className]"))
        if met[-1][0] == "AUDIO":
            break
    assert met[0] == ["A", "skip"] and ["A", "download"] in met and met[-1] == ["AUDIO", ""]
    opened.keyboard.press("Space")
    reached(opened, 0, 0, 0.4)
    last = 0
    for key in (4, 2, 3):
        before, start = place(opened, 0, last), time.monotonic()
        opened.keyboard.press(str(key))
        last = key - 1
        assert playing(opened, 0) == [last]
        assert before - SLACK <= place(opened, 0, last) <= before + time.monotonic() - start + SLACK
        focused = "[...document.querySelectorAll('#item_0 audio')].indexOf(document.activeElement)"
        assert opened.evaluate(focused) == last
    opened.keyboard.press("5")
    opened.keyboard.press("Control+1")
    assert playing(opened, 0) == [2]
    reached(opened, 0, 2, place(opened, 0, 2) + 0.1)  # by then the browser has told that it plays
    opened.evaluate(PLAY, [1, 0])
    assert playing(opened, 0) == [] and playing(opened, 1) == [0]  # one song at a time


def test_keys_in_quick_succession(opened: Any) -> None:
    """The events of the first come when the second plays already, and must not stop it."""
    opened.evaluate("""() => {
      const item = document.getElementById("item_0");
      for (const key of ["2", "3"]) item.dispatchEvent(new KeyboardEvent("keydown", { key }));
    }""")
    reached(opened, 0, 2, 0.3)
    assert playing(opened, 0) == [2]


def test_users_text_stays_text(opened: Any) -> None:
    assert opened.locator("#title_0").inner_text() == TITLE
    assert opened.title() == opened.locator("h1").inner_text() == "<b>out"
    assert "VQ-VAE of my <i>run and back" in opened.locator("header p").inner_text()
    assert opened.evaluate("document.scripts.length") == 1
    assert opened.evaluate("document.querySelectorAll('b, header i').length") == 0


def test_figures_and_names_for_screen_readers(opened: Any) -> None:
    tree = opened.locator("body").aria_snapshot()
    for part in ("- banner", "- main", "- contentinfo", 'navigation "Songs"', 'table "Figures over all 2 songs"'):
        assert part in tree, part
    assert 'columnheader "Codebook use"' in tree and 'rowheader "2"' in tree
    assert opened.locator("table tbody tr").count() == 3
    assert opened.locator("table tbody tr").nth(1).locator("td").nth(2).inner_text() == "4.00"  # 1000 codes of 4 bits
    names = opened.evaluate("[...document.querySelectorAll('audio')].map((a) => a.getAttribute('aria-label'))")
    assert names[0] == f"Player of {TITLE}, original" and names[3] == f"Player of {TITLE}, level 2"
    alts = opened.evaluate("[...document.images].map((image) => image.alt)")
    assert len(set(alts)) == 8 and alts[7].startswith("Spectrogram of plain.wav, level 2: 4.0 s to the right")
    assert opened.locator("#keys").is_visible()
    assert "4" in opened.locator("#keys").inner_text()


@pytest.mark.parametrize("width, height, scheme", [(1280, 900, "light"), (800, 900, "dark"), (360, 740, "dark")])
def test_fits_the_screen(browser: Any, folder: Path, tmp_path: Path, width: int, height: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto((folder / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(c) for c in ground[4:-1].split(",")) > 3 * 128) == (scheme == "light")
    about, heard = (page.locator(f"#item_0 {part}").nth(1).bounding_box() for part in (".about", ".heard"))
    assert (heard["x"] > about["x"] + about["width"]) == (width > 768)
    assert heard["x"] + heard["width"] <= width
    cells = page.evaluate("""[...document.querySelectorAll("table td, tbody th")].map((cell) => {
      const box = cell.getBoundingClientRect();
      return [box.left, box.right];
    })""")
    assert len(cells) == 3 * 8 and all(0 <= left < right <= width for left, right in cells)
    if width < 768:  # each level has its own list, with the names of the figures
        assert page.evaluate("getComputedStyle(document.querySelector('td'), '::before').content") == (
            '"Samples per code"'
        )
        tree = page.locator("main").aria_snapshot()
        assert "- table" in tree and "- rowheader" in tree and "- cell" in tree
    assert page.screenshot(path=str(tmp_path / f"page_{width}.png"), full_page=True)[:4] == b"\x89PNG"
    page.close()


def test_without_script_the_page_can_be_read_and_heard(browser: Any, folder: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "index.html").as_uri())
    assert page.locator("#item_1 audio[controls]").count() == 4
    assert page.locator("#keys").is_hidden()
    context.close()
