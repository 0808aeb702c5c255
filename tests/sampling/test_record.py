"""Titles and records of songs: beside them, in their tags, and that a song is made again from either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from tiny_models import make_tiny_runs

from jukebox.sample import main
from jukebox.sampling.record import file_name, read_again, title_of
from jukebox.utils.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two songs, as MP3."""
    folder = tmp_path_factory.mktemp("made")
    flags = dict(sample_length_in_seconds=2.304, hop_fraction=0.5, lyrics="one two", artist="somebody", genre="polka")
    model = make_tiny_runs(folder)
    assert main(model=model, name=str(folder / "run"), n_samples=2, seed=7, format="mp3", temp=0.9, **flags) == 0
    return folder / "run"


def tokens(folder: Path) -> list[torch.Tensor]:
    return torch.load(folder / "level_0" / "data.pth.tar", weights_only=True)["zs"]


def test_beside_and_in_a_song(made: Path) -> None:
    level = made / "level_0"
    record = json.loads((level / "item_1.json").read_text(encoding="utf-8"))
    assert record["title"] == "somebody - polka 2" and record["file"] == "songs/somebody - polka 2.mp3"
    assert (level / record["file"]).read_bytes() == (level / "item_1.mp3").read_bytes()
    assert [*level.glob("*.mp3")] and all(path.name.startswith("item_") for path in level.glob("*.mp3"))
    assert (record["song"], record["seed"], record["lyrics"]) == (1, 7, "one two")
    assert record["engine"] in ("eager", "native")
    assert record["flags"]["temp"] == 0.9 and record["flags"]["n_samples"] == 2 and "name" not in record["flags"]
    assert {"jukebox", "torch", "numpy", "python"} <= set(record["versions"])
    with av.open(str(level / "item_1.mp3")) as song:
        stream = song.streams.audio[0]
        assert stream.rate == 44100 and stream.bit_rate == 192_000
        assert song.metadata["title"] == "somebody - polka 2" and song.metadata["artist"] == "somebody"


@pytest.mark.parametrize("source", ["item_1.json", "item_0.mp3", "songs/somebody - polka 1.mp3"])
def test_made_again(made: Path, source: str, tmp_path: Path) -> None:
    assert main(again=str(made / "level_0" / source), name=str(tmp_path / "new"), format="flac") == 0
    assert all(torch.equal(a, b) for a, b in zip(tokens(made), tokens(tmp_path / "new"), strict=True))
    again = read_again(str(tmp_path / "new" / "level_0" / "item_0.flac"))
    assert again["format"] == "flac" and again["seed"] == 7


def test_an_earlier_runs_names_go_with_it(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = dict(again=str(made / "level_2" / "item_0.json"), name=str(folder), n_samples=1, overwrite=True)
    assert main(title="My: song", **flags) == 0
    named = folder / "level_0" / "songs" / "My song.mp3"
    assert named.exists()
    mine = folder / "level_0" / "songs" / "mine.mp3"
    mine.write_bytes(b"mine")
    assert main(title="mine", **flags, format="wav") == 0
    assert not named.exists() and mine.read_bytes() == b"mine"
    assert (folder / "level_0" / "songs" / "mine.wav").exists() and not (folder / "level_0" / "item_0.mp3").exists()


def test_no_record(made: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"title": "x"}')
    (tmp_path / "a.mp3").write_bytes(b"no music")
    for name in ("a.json", "a.mp3"):
        with pytest.raises(UserError, match="holds no record of a song"):
            main(again=str(tmp_path / name))
    with pytest.raises(UserError, match="there is no such file"):
        main(again=str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize("run", ["../../elsewhere/run", "/etc/run", "a/../../run"])
def test_a_record_does_not_say_where_to_write(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "item_0.json"
    for said, name in ((run, "run"), ("samples/run", "samples/run"), (str(tmp_path.parent), tmp_path.parent.name)):
        path.write_text(json.dumps({"run": said, "flags": {"model": "demo"}}))
        assert read_again(str(path))["name"] == (said if said == str(tmp_path.parent) else name)  # it is in that run


def test_a_record_does_not_say_what_to_fetch(tmp_path: Path) -> None:
    path = tmp_path / "item_0.json"
    path.write_text(json.dumps({"run": "x", "flags": {"weights_from": "owner/name"}}))
    with pytest.raises(UserError, match="if you trust them, add --weights_from=owner/name"):
        main(again=str(path))


def test_titles() -> None:
    info: dict[str, Any] = {"artist": "Ann", "genre": "n/a"}
    assert title_of(info, {"songs": [4, 5]}, 1) == "Ann 6" and title_of({}, {}, 0) == "Song 1"
    assert title_of(info, {"songs": [0], "title": "Dawn"}, 0) == "Dawn"
    assert title_of(info, {"songs": [0, 1], "title": "Dawn"}, 1) == "Dawn 2"
    assert file_name('../a\\b: "c"?\n') == "a b c" and file_name("...") == "Song" and len(file_name("x" * 300)) == 100
    assert file_name("夜明け") == "夜明け"
