"""What save_html writes: valid, labelled, escaped pages, and files that agree with them. No browser needed."""

from __future__ import annotations

import json
import os
import re
import shlex
import types
import wave
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jukebox import save_html as module
from jukebox.data.labels import EmptyLabeller
from jukebox.page.parts import clock
from jukebox.page.times import character_times
from jukebox.save_html import save_html
from jukebox.utils.label_row import SIGNALS, Signal

VOID = {"meta", "link", "input", "img", "br", "hr"}
SVG = {"svg", "path", "use"}


class Page(HTMLParser):
    """Reads a page, failing on an element that is closed wrongly, and keeps (tag, attributes, text) of each."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[dict[str, Any]] = []
        self.elements: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open[-1]['tag']}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute given twice in <{tag}>"
        parents = [element["tag"] for element in self.open]
        element = {"tag": tag, "text": "", "parents": parents, **{key: value or "" for key, value in attrs}}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SVG, f"<{tag}/> is no HTML"
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1]["tag"] == tag, f"</{tag}> closes {self.open and self.open[-1]['tag']}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, Any]]:
        return [e for e in self.elements if e["tag"] == tag and all(e.get(k) == v for k, v in attributes.items())]


def info_of(song, **more: Any) -> dict[str, Any]:
    tokens = list(range(len(song.lyrics)))
    return {"artist": "Ada", "genre": "jazz", "lyrics": song.lyrics, "full_tokens": tokens, **more}


def write(folder: Path, song, infos: list[Any], alignments: Any = None, **hps: Any) -> Page:
    n = len(infos)
    y = torch.tensor([[240 * song.sr, 60 * song.sr, 1000, 3, 1, -1]] * n)
    zs = [torch.zeros(n, 0, dtype=torch.long), torch.zeros(n, 600, dtype=torch.long)]
    x = torch.from_numpy(np.repeat(song.x, n, axis=0)).float()
    save_html(str(folder), x, zs, {"y": y, "info": infos}, alignments, {"sr": song.sr, "name": "runs/my run", **hps})
    return Page((folder / "index.html").read_text(encoding="utf-8"))


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'$title ${items}"


@pytest.fixture
def pages(tmp_path: Path, song) -> dict[str, Page]:
    """One page of every kind that there is."""
    hostile = info_of(song, artist=HOSTILE, genre=HOSTILE, title=HOSTILE)
    none = {"artist": "n/a", "genre": None, "lyrics": "", "full_tokens": None}
    short = info_of(song, lyrics="la")
    return {
        "several": write(
            tmp_path / "a/level_1", song, [info_of(song), hostile, none, short], [song.alignment, None, None, None]
        ),
        "one": write(tmp_path / "b/level_0", song, [hostile], [song.alignment], mode=HOSTILE, name="<b>&lt;"),
        "plain": write(tmp_path / "c", song, [None]),
    }


# ------------------------------------------------------------------------------------------------ a page for everyone


def test_ids_are_unique_and_references_lead_somewhere(pages) -> None:
    for page in pages.values():
        ids = Counter(e["id"] for e in page.elements if "id" in e)
        assert set(ids.values()) == {1}
        for element in page.elements:
            for key in ("aria-labelledby", "aria-describedby", "for"):
                assert all(each in ids for each in element.get(key, "").split())
            if element.get("href", "").startswith("#"):
                assert element["href"][1:] in ids


def test_every_control_has_a_name(pages) -> None:
    for page in pages.values():
        controls = [e for e in page.elements if e["tag"] in ("audio", "input", "a", "button") or "tabindex" in e]
        assert {"audio", "input", "a"} <= {e["tag"] for e in controls}
        for element in controls:
            if element["tag"] == "main":
                continue
            name = element.get("aria-label") or element["text"].strip()
            assert name, element
            # what can be seen is part of what is read out
            assert element["tag"] != "a" or element["text"].split()[0] in name
        assert all(e["alt"] for e in page.all("img"))
        names = [e.get("aria-label") or e["text"] for e in controls if e["tag"] in ("audio", "input")]
        assert len(set(names)) == len(names)


def test_landmarks_headings_and_head(pages) -> None:
    for page in pages.values():
        assert [len(page.all(tag)) for tag in ("html", "head", "body", "header", "main", "footer", "h1")] == [1] * 7
        assert page.all("html")[0]["lang"] == "en" and page.all("title")[0]["text"] == page.all("h1")[0]["text"]
        assert "width=device-width" in page.all("meta", name="viewport")[0]["content"]
        levels = [int(e["tag"][1]) for e in page.elements if re.fullmatch("h[1-6]", e["tag"])]
        assert levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert pages["several"].all("nav") and not pages["one"].all("nav")


def test_nesting_follows_html(pages) -> None:
    block = {"p", "div", "section", "figure", "h1", "h2", "h3", "dl", "ul", "header", "footer", "main", "nav", "audio"}
    for page in pages.values():
        for element in page.elements:
            assert not (element["tag"] in block and "p" in element["parents"]), element
            assert not (element["tag"] == "a" and "a" in element["parents"])
            assert element["tag"] not in ("dt", "dd") or element["parents"][-2:] == ["dl", "div"]
            assert element["tag"] != "li" or element["parents"][-1] == "ul"


def test_nothing_is_fetched(pages) -> None:
    for page in pages.values():
        links = [e[key] for e in page.elements for key in ("src", "href", "poster", "data") if key in e]
        assert all(re.fullmatch(r"#\w+|item_\d+\.wav|item_\d+/(align\.png|lyrics\.lrc)|data:,", link) for link in links)
        assert not [e for e in page.elements if e["tag"] in ("iframe", "object", "embed", "base", "form")]
        assert not [key for e in page.elements for key in e if key.startswith("on") or key == "style"]
        code = page.all("style")[0]["text"] + page.all("script")[-1]["text"]
        assert not re.search(r"https?:|@import|url\(|fetch|XMLHttp|import\b|eval|innerHTML", code)
        assert "default-src 'none'" in page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]


def test_what_users_wrote_stays_text(pages) -> None:
    page = pages["several"]
    assert page.all("h2", id="title_1")[0]["text"] == HOSTILE
    assert [e["text"] for e in page.all("dd")].count(HOSTILE) == 2
    assert page.all("audio")[1]["aria-label"] == f"Player of {HOSTILE}"
    assert [e["text"] for e in pages["one"].all("dd")].count(HOSTILE) == 3
    assert pages["one"].all("h1")[0]["text"] == "<b>&lt;"
    for each in pages.values():
        assert len(each.all("script")) == 2 and all("onerror" not in e for e in each.all("img"))


def test_characters_that_no_page_can_hold(tmp_path: Path, song) -> None:
    page = write(tmp_path, song, [info_of(song, lyrics="a\x00b\rc\ud800d\te\x85f", artist="\x1b")])
    assert page.all("p", **{"data-start": "0"})[0]["text"] == "a\ufffdb\ufffdc\ufffdd\te\ufffdf"


def test_colours_can_be_read() -> None:
    """WCAG 2.2, 1.4.3: text has a contrast of at least 4.5 to its ground, in light and in dark."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    style = (Path(module.__file__).parent / "page" / "player.css").read_text(encoding="utf-8")
    schemes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6});", scheme))
        for ink, ground in [(i, g) for i in ("text", "quiet", "accent") for g in ("card", "ground")] + [
            ("on-accent", "accent")
        ]:
            light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


# ------------------------------------------------------------------------------------------------ what the page says


def test_page_and_files_agree_with_the_alignment(tmp_path: Path, song) -> None:
    page = write(tmp_path / "level_1", song, [info_of(song)], [torch.from_numpy(song.alignment).float()])
    times = character_times(song.alignment, song.seconds / len(song.alignment))
    changes = json.loads(page.all("script", id="data")[0]["text"])[0]["changes"]
    assert [c for _, c in changes] == [*range(len(song.lyrics)), -1]
    np.testing.assert_allclose([t for t, _ in changes], [*song.starts, song.end], atol=1e-3)

    folder = tmp_path / "level_1" / "item_0"
    align = json.loads((folder / "align.json").read_text())
    assert align["lit"] == times.lit.tolist() and align["shift"] == 0 and align["seconds_per_row"] == 0.01
    np.testing.assert_allclose(align["starts"], song.starts, atol=1e-3)
    words = json.loads((folder / "lyrics.json").read_text())
    assert words["lyrics"] == song.lyrics and words["full_tokens"] == list(range(len(song.lyrics)))
    assert (words["artist"], words["genre"]) == ("Ada", "jazz")
    lines = (folder / "lyrics.lrc").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "[ar:Ada]" and len(lines) == 5 and lines[3].endswith("] [Chorus]")
    assert (folder / "align.png").read_bytes()[:4] == b"\x89PNG"

    shown = page.all("p")
    pieces = {int(e["data-start"]): e["text"] for e in shown if "data-start" in e}
    assert "\n".join(pieces[start] for start in sorted(pieces)) == song.lyrics
    assert all(song.lyrics[start : start + len(text)] == text for start, text in pieces.items())


def test_shift_is_taken_from_the_settings(tmp_path: Path, song) -> None:
    write(tmp_path, song, [info_of(song)], [np.roll(song.alignment, 1, axis=1)], alignment_shift=1)
    align = json.loads((tmp_path / "item_0/align.json").read_text())
    assert align["shift"] == 1 and align["starts"][-1] is None
    np.testing.assert_allclose(align["starts"][:-1], song.starts[:-1], atol=1e-3)


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_the_line_is_drawn_where_the_ink_is(tmp_path: Path, song, shift: int) -> None:
    attention = np.roll(song.alignment, shift, axis=1)
    page = write(tmp_path, song, [info_of(song)], [attention], alignment_shift=shift)
    (line,) = [e["d"] for e in page.all("path") if "figure" in e["parents"]]
    points = [tuple(map(int, point.split())) for point in line[1:].split("L")]
    rows, columns = attention.shape
    for (begin, y), (end, same) in zip(points[::2], points[1::2], strict=True):
        under = attention[(begin + end) * rows // 2000, y * columns // 1000]
        assert y == same and under == attention[(begin + end) * rows // 2000].max()
    assert len(points) > columns


@pytest.mark.parametrize(
    "seconds, said", [(0, "0:00"), (9.98, "0:10"), (9.4, "0:09"), (59.6, "1:00"), (0.5, "0:01"), (3599.5, "60:00")]
)
def test_times_are_rounded(seconds: float, said: str) -> None:
    assert clock(seconds) == said


def test_the_length_of_a_run_is_rounded(tmp_path: Path, song) -> None:
    page = write(tmp_path, song, [None], sample_length_in_seconds=9.98458, temp=0.98458)
    assert {"9.98", "0.98458"} <= {e["text"] for e in page.all("dd")}


def test_the_command_makes_the_songs_again_and_names_no_folder_of_the_user(tmp_path: Path, song) -> None:
    again = {
        "model": "a b", "codes_file": "/home/me/x/data.pth.tar", "metas": "/home/me/m.json", "tf32": True,
        "hop_fraction": [0.5, 0.125], "lyrics": HOSTILE, "seed": 3,
    }  # fmt: skip
    given = {"codes_file": "runs/x/data.pth.tar", "metas": "/home/me/m.json"}
    page = write(tmp_path, song, [None], again=again, **{**given, "name": "/home/me/runs/two_rank_1"})
    command = page.all("pre", id="command")[0]["text"]
    assert "/home" not in command
    assert shlex.split(command) == [
        "python", "-m", "jukebox.sample", "--name=two", "--model=a b", "--codes_file=runs/x/data.pth.tar",
        "--metas=m.json", "--tf32", "--hop_fraction=0.5,0.125", f"--lyrics={HOSTILE}", "--seed=3",
    ]  # fmt: skip
    assert not write(tmp_path, song, [None], again={"seed": 3}).all("pre")  # made from Python


def test_pages_of_other_levels_are_linked_as_they_come(tmp_path: Path, song) -> None:
    def links(level: int) -> list[str]:
        page = Page((tmp_path / f"level_{level}" / "index.html").read_text(encoding="utf-8"))
        return [e["href"] for e in page.all("a") if e.get("href", "").startswith("..")]

    (tmp_path / "level_5").mkdir()
    (tmp_path / "level_5" / "index.html").write_bytes(b"a user's own page \xff")
    write(tmp_path / "level_x", song, [None])
    write(tmp_path / "level_2", song, [info_of(song, title=HOSTILE)])
    first = (tmp_path / "level_2" / "index.html").read_bytes()
    write(tmp_path / "level_0", song, [None])
    everywhere = [f"../level_{level}/index.html" for level in (0, 2, 5)]
    assert links(2) == links(0) == everywhere
    second = (tmp_path / "level_2" / "index.html").read_bytes()
    nav = b'<a href="../level_0/index.html" data-say>Level 0</a>'
    assert nav in second and nav not in first
    assert (tmp_path / "level_5" / "index.html").read_bytes() == b"a user's own page \xff"
    assert "levels" not in (tmp_path / "level_x" / "index.html").read_text(encoding="utf-8").split("<script")[0]


@pytest.mark.parametrize(
    "alignment, said",
    [
        (None, "There is no alignment"),
        (np.ones((10, 3)), "does not fit"),
        (np.ones(10), "does not fit"),
        ("zeros", "attends to none"),
    ],
)
def test_lyrics_that_cannot_light_up_say_so(tmp_path: Path, song, alignment: Any, said: str) -> None:
    alignment = np.zeros_like(song.alignment) if isinstance(alignment, str) else alignment
    page = write(tmp_path, song, [info_of(song)], [alignment])
    assert [e for e in page.all("p", **{"class": "quiet"}) if said in e["text"]]
    assert page.all("div", **{"class": "lyrics"}) and not page.all("div", **{"class": "lyrics timed"})
    assert json.loads(page.all("script", id="data")[0]["text"]) == [{"changes": []}]


@pytest.mark.parametrize("labels", [None, {}, {"info": [], "y": torch.zeros(1, 0)}, {"info": [{"artist": "n/a"}]}])
def test_runs_without_labels(tmp_path: Path, song, labels: Any) -> None:
    save_html(tmp_path, song.x, [], labels, None, types.SimpleNamespace(sr=song.sr))
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert "Made without labels." in page.all("section")[0]["text"]
    assert not page.all("div", **{"class": "words"}) and not page.all("figure")
    assert sorted(p.name for p in (tmp_path / "item_0").iterdir()) == ["audio.wav"]


def test_labels_and_settings_are_shown(tmp_path: Path, song) -> None:
    hps = {
        "model": "5b", "seed": 0, "temp": [0.98, 0.99], "top_k": [0, 0], "top_p": 0.0, "hop_fraction": (0.5, 0.125),
        "audio_file": "/home/me/one.wav,C:\\music\\two.mp3", "codes_file": "/data/runs/old/level_0/data.pth.tar",
        "dtype": None,
    }  # fmt: skip
    page = write(tmp_path / "level_1", song, [info_of(song), info_of(song)], None, **hps)
    keys, values = [e["text"] for e in page.all("dt")], [e["text"] for e in page.all("dd")]
    shown = list(zip(keys, values, strict=True))
    assert shown[:3] == [("Artist", "Ada"), ("Genre", "jazz"), ("Part of the song", "1:00 to 1:06 of 4:00")]
    assert dict(shown[6:]) == {
        "Model": "5b", "Seed": "0", "Temperature": "0.98, 0.99", "Hop (share of the context)": "0.5, 0.125",
        "Prompt": "one.wav, two.mp3", "Codes from": "old/level_0/data.pth.tar", "Sample rate (Hz)": str(song.sr),
        "Codes per level": "0, 600",
    }  # fmt: skip
    assert page.all("h1")[0]["text"] == "my run"
    assert "2 items, decoded from level 1, a draft" in page.all("header")[0]["text"]


def test_signals_are_shown(tmp_path: Path, song, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIGNALS, "mood", Signal("calm or wild", 2, ["calm", "wild"].index))
    page = write(tmp_path / "level_1", song, [{**info_of(song), "mood": "wild"}, info_of(song)])
    shown = (
        [e["text"] for e in page.all("dt") if e["text"] == "Mood"],
        [e["text"] for e in page.all("dd")].count("wild"),
    )
    assert shown == (["Mood"], 1)


def test_finest_level_is_called_so(tmp_path: Path, song) -> None:
    assert "1 item, decoded from level 0, the finest" in write(tmp_path / "level_0", song, [None]).all("p")[0]["text"]
    assert write(tmp_path / "other", song, [None]).all("p")[0]["text"] == "1 item"
    assert "level 2" in write(tmp_path / "other", song, [None], level=2).all("p")[0]["text"]


def test_sample_rate_is_needed(tmp_path: Path, song) -> None:
    with pytest.raises(ValueError, match=r"hps\.sr"):
        save_html(tmp_path / "new", song.x, [], None, None, {})
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------------------------------- files


def test_missing_audio_is_written(tmp_path: Path, song) -> None:
    loud = np.concatenate([song.x, 3 * song.x])
    save_html(tmp_path, loud, [], None, None, {"sr": song.sr})
    for i in range(2):
        with wave.open(str(tmp_path / f"item_{i}.wav")) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (song.sr, 1, 2)
            samples = np.frombuffer(file.readframes(10**9), "<i2") / 32767
        assert np.abs(samples - np.clip(loud[i, :, 0], -1, 1)).max() < 1 / 32767
        assert (tmp_path / f"item_{i}/audio.wav").read_bytes() == (tmp_path / f"item_{i}.wav").read_bytes()


@pytest.mark.parametrize(
    "there, wanted, taken",
    [(["flac"], None, "flac"), (["mp3"], "mp3", "mp3"), (["mp3", "wav"], None, "wav"), (["mp3", "wav"], "mp3", "mp3")],
)
def test_audio_of_the_run_is_kept(tmp_path: Path, song, there: list[str], wanted: str | None, taken: str) -> None:
    (tmp_path / "item_0").mkdir()
    (tmp_path / "item_0/audio.wav").write_bytes(b"old")
    for kind in there:
        (tmp_path / f"item_0.{kind}").write_bytes(kind.encode())
    for _ in range(2):
        page = write(tmp_path, song, [None], format=wanted)
        assert page.all("audio")[0]["src"] == page.all("a", **{"class": "download"})[0]["href"] == f"item_0.{taken}"
        assert page.all("a", **{"class": "download"})[0]["text"] == f"Download {taken.upper()}"
        assert (tmp_path / f"item_0.{taken}").read_bytes() == taken.encode()
        assert [p.name for p in (tmp_path / "item_0").iterdir()] == [f"audio.{taken}"]
        assert (tmp_path / f"item_0/audio.{taken}").read_bytes() == taken.encode()


def test_disk_without_hard_links(tmp_path: Path, song, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    write(tmp_path, song, [None])
    assert not (tmp_path / "item_0/audio.wav").samefile(tmp_path / "item_0.wav")
    assert (tmp_path / "item_0/audio.wav").read_bytes() == (tmp_path / "item_0.wav").read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_input_same_bytes_and_nothing_left_over(tmp_path: Path, song) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "level_0", song, [info_of(song), None], [song.alignment, None], temp=0.5)
    first, second = files(tmp_path / "a"), files(tmp_path / "b")
    assert first == second
    item = {f"level_0/item_0/{n}" for n in ("audio.wav", "lyrics.json", "align.json", "align.png", "lyrics.lrc")}
    rest = {"level_0/index.html", "level_0/item_0.wav", "level_0/item_1.wav", "level_0/item_1/audio.wav"}
    assert set(first) == item | rest


def test_files_of_an_earlier_page_go(tmp_path: Path, song) -> None:
    write(tmp_path, song, [info_of(song)], [song.alignment])
    write(tmp_path, song, [info_of(song)], None)
    assert sorted(p.name for p in (tmp_path / "item_0").iterdir()) == ["audio.wav", "lyrics.json"]
    write(tmp_path, song, [None], None)
    assert sorted(p.name for p in (tmp_path / "item_0").iterdir()) == ["audio.wav"]


def test_a_page_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, song, monkeypatch) -> None:
    write(tmp_path, song, [info_of(song)])
    before = files(tmp_path)

    def full_disk(*_: Any) -> None:
        raise OSError("no space left")

    for step in ("fsync", "replace"):  # while the new file is written, and just before it takes the old one's place
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full_disk)
            with pytest.raises(OSError, match="no space"):
                write(tmp_path, song, [info_of(song, artist="another")])
        assert files(tmp_path) == before


def test_the_page_comes_last(tmp_path: Path, song, monkeypatch) -> None:
    order, replace = [], os.replace

    def noted(source: Any, target: Any) -> None:
        order.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    write(tmp_path, song, [info_of(song)], [song.alignment])
    assert order == ["item_0.wav", "audio.wav", "lyrics.json", "align.json", "align.png", "lyrics.lrc", "index.html"]


def test_files_can_be_read_by_others(tmp_path: Path, song) -> None:
    if os.name != "posix":
        pytest.skip("file modes of POSIX")
    old = os.umask(0o022)
    try:
        write(tmp_path, song, [info_of(song)], [song.alignment])
    finally:
        os.umask(old)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()} == {0o644}


def test_size_stays_small(tmp_path: Path, song) -> None:
    write(tmp_path, song, [info_of(song)], [song.alignment])
    assert (tmp_path / "index.html").stat().st_size < 60_000


def test_a_model_without_labels_shows_no_lyrics(tmp_path: Path) -> None:
    labels = EmptyLabeller().get_batch_labels([{}])
    save_html(tmp_path / "level_0", np.zeros((1, 800, 1)), [], labels, None, {"sr": 800})
    text = (tmp_path / "level_0" / "index.html").read_text(encoding="utf-8")
    assert 'class="lyrics' not in text and "[]</p>" not in text
    assert not (tmp_path / "level_0" / "item_0" / "lyrics.json").exists()
