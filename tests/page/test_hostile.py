"""200 hostile strings, wherever text of users gets into pages and names of files: nothing runs, nothing leaves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import Seen

from jukebox.page.parts import clean
from jukebox.reconstruction.figures import Figures
from jukebox.reconstruction.page import ReconstructedSong, Version, page
from jukebox.sampling.record import file_name
from jukebox.save_html import save_html, save_joined_page
from jukebox.utils.files import atomic_write, link_or_copy

SR = 8000
RUN = "window.ran=1;alert(1)"
BREAKS = ["", '"', "'", "`", ">", '">', "'>", "-->", "]]>", "*/", "</title>", "</style>", "</textarea>", "</script >"]
CODE = [f"<script>{RUN}</script>", f"</script><script>{RUN}</script>", f'<img src="x" onerror="{RUN}">', "<!--<script>"]
CODE += [f"<svg/onload={RUN}>", '<iframe src="//evil.test/">', "<style>@import '//evil.test/a.css'</style>"]
CODE += [
    "<base href=//evil.test/>",
    '<meta http-equiv=refresh content="0;url=//evil.test">',
    f" onfocus={RUN} autofocus ",
]
CODE += ['<link rel=stylesheet href="//evil.test/b.css">']
OTHERS = [
    f"javascript:{RUN}",
    f" jAvAsCrIpT:{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    "//evil.test/a.js",
    "%3Cscript%3E",
]
OTHERS += [
    "../../../../etc/passwd",
    "..\\..\\x",
    "/etc/passwd",
    "C:\\x",
    "..",
    ".",
    "a/../../b",
    "~/x",
    "$(touch x)",
    "%2e%2e%2f",
]
OTHERS += [
    "a\0b",
    "\x1b[31m",
    "\r\n\r\nx",
    "\u2028alert(1)\u2029",
    "\u202eevil\u202c",
    "\u2066a",
    "\ufeff",
    "\ud800",
    "\udfffx",
]
OTHERS += [
    "&lt;script&gt;",
    "&#60;b&#62;",
    "&amp;amp;",
    "&quot;",
    "&",
    "&#x0;",
    "&NotAName;",
    "\\u003cscript\\u003e",
    "\\",
]
OTHERS += [
    "$title",
    "${main}",
    "$$",
    "$",
    "{{7*7}}",
    "{%x%}",
    "%s%n",
    "{0}",
    "</",
    "<",
    "<!",
    '","changes":[[0,9]],"x":"',
    '"}]',
]
OTHERS += [
    "x" * 20_000,
    "夜" * 400,
    "😀" * 300,
    "a\u0301" * 200,
    "<" * 3000,
    "NaN",
    "null",
    "__proto__",
    "#item_0",
    "?x=1#y",
]
STRINGS = [before + code for code in CODE for before in BREAKS][: 200 - len(OTHERS)] + OTHERS


# What a folder can be called; the title of a page is the name of its folder.
HOSTILE = next(text for text in STRINGS if text.startswith("<img") and "onerror" in text and "/" not in text)


def test_there_are_200() -> None:
    assert len(STRINGS) == len(set(STRINGS)) == 200


def look(page: Any, place: Path, folder: Path, parts: int) -> list[str]:
    """Opens a page, makes sure that nothing runs or leaves, and returns the text of each of its parts."""
    seen = Seen(page)
    page.goto(place.as_uri())
    assert page.evaluate("window.ran") is None
    found = page.evaluate(
        """() => [document.querySelectorAll('script, style').length,
            [...document.querySelectorAll('iframe, base, object, embed, link:not([href="data:,"]), svg script')].length,
            [...document.querySelectorAll('*')].flatMap((e) => e.getAttributeNames()).filter((n) => /^on/.test(n)),
            [...document.querySelectorAll('[src], a[href]')].map((e) => e.src || e.href)
                .filter((a) => !a.startsWith('data:')),
            [...document.querySelectorAll('.item')].map((e) => e.textContent)]"""
    )
    scripts, foreign, handlers, addresses, texts = found
    assert scripts <= 3 and not foreign and not handlers and len(texts) == parts
    inside = folder.as_uri() + "/"
    assert all(address.startswith(inside) for address in addresses + seen.requests), addresses
    assert not [error for error in seen.errors if "ERR_FILE_NOT_FOUND" not in error]
    return list(texts)


def shown(text: str) -> str:
    return " ".join(clean(text, keep="\n\t").split())


def test_the_player(browser: Any, tmp_path: Path) -> None:
    count = len(STRINGS)
    folder = tmp_path / HOSTILE / "level_0"
    infos = [{"artist": text, "genre": text, "title": text, "lyrics": f"la {text}"} for text in STRINGS]
    hps = {
        "sr": SR,
        "name": HOSTILE,
        "model": STRINGS[6],
        "mode": STRINGS[7],
        "audio_file": STRINGS,
        "format": "wav",
    }
    hps["again"] = {"model": "demo", **{f"flag{i}": text for i, text in enumerate(STRINGS)}}
    before = {*tmp_path.rglob("*")}
    save_html(folder, np.zeros((count, 80, 1)), [np.zeros((count, 2), int)], {"info": infos}, None, hps)
    assert {path.relative_to(folder).parts[0].split(".")[0].rsplit("_", 1)[0] for path in folder.rglob("*")} == {
        "index",
        "item",
    }
    assert {path for path in {*tmp_path.rglob("*")} - before if folder not in path.parents} <= {folder, folder.parent}
    texts = look(page := browser.new_page(), folder / "index.html", tmp_path, count)
    for text, given in zip(texts, STRINGS, strict=True):
        assert " ".join(text.split()).count(shown(given)) >= 3, given  # title, labels, lyrics
    command = " ".join(page.evaluate("document.getElementById('command').textContent").split())
    page.close()
    for i, given in enumerate(STRINGS[:60]):
        assert f"--flag{i}=" in command and (("'" in given) or shown(given) in command), given


def test_joined_and_reconstruction(browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE
    save_joined_page(
        folder, [(text.replace("\ud800", "?").replace("\udfff", "?"), "a.wav", "b.html") for text in STRINGS]
    )
    texts = look(page := browser.new_page(), folder / "index.html", tmp_path, len(STRINGS))
    page.close()
    figures = [Figures(0, 8, SR, torch.arange(16), (0.2,))]
    versions = [Version("a.wav", "a.png"), Version("a.wav", "a.png", figures[0])]
    songs = [ReconstructedSong(text, 6.0, 0.0, versions) for text in STRINGS]
    place = tmp_path / "index.html"
    place.write_text(_page(STRINGS[3], songs, figures), encoding="utf-8")
    texts = look(page := browser.new_page(), place, tmp_path, len(STRINGS))
    page.close()
    for text, given in zip(texts, STRINGS, strict=True):
        assert shown(given.replace("\n", "\ufffd").replace("\t", "\ufffd")) in " ".join(text.split()), given


def _page(title: str, songs: list[ReconstructedSong], figures: list[Figures]) -> str:
    return page(title, STRINGS[4], 7, SR, songs, figures)


@pytest.mark.parametrize("ending", [".wav", ".json"])
def test_names_of_files_stay_in_the_folder(ending: str, tmp_path: Path) -> None:
    for text in STRINGS:
        name = file_name(text)
        path = tmp_path / f"{name}{ending}"
        assert os.path.dirname(os.path.abspath(path)) == str(tmp_path) and name.strip(". ") == name
        with atomic_write(path) as file:
            file.write(b"x")
        link_or_copy(path, path.with_name(f"{name}.flac"))
        assert path.read_bytes() == path.with_name(f"{name}.flac").read_bytes() == b"x"
