"""The table of docs/migrate.md: what it says to write runs, on small models under the released names."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from readme_commands import RECORDED
from tiny_models import ARTISTS, GENRES, make_tiny_runs

import jukebox.sample
from jukebox import represent, sample, train
from jukebox.data.synthesizer import make_song
from jukebox.hparams import HPARAMS_REGISTRY, Hyperparams
from jukebox.loaders import find_model
from jukebox.utils.audio.write import write_audio
from jukebox.utils.command_line import parse_flags

PAGE = Path(__file__).parents[2] / "docs" / "migrate.md"
ROWS = re.findall(r"^\| (original|jukemir|jukemirlib|transformers) \| (.*) \| (.*) \|$", PAGE.read_text("utf-8"), re.M)
# Numbers of the released models -> those of the small ones.
SMALLER = {"1048576": "1024", "12 * 44100": "512", "44100": "250", "layers=36": "layers=2"}
SHORTER = {"seconds=20": "seconds=2.304", "seconds=180": "seconds=4"}
LONGER = {"seconds=30": "seconds=2.56", "seconds=12": "seconds=1"}


def code(row: tuple[str, str, str]) -> str:
    """The code of a row that is to run; "" where nothing is shown."""
    cell = row[1] if row[2] == "as it is" else row[2]
    found = re.match(r"`([^`]*)`", cell)
    return found[1] if found else ""


def fitted(text: str, changes: dict[str, str]) -> str:
    for ours, small in changes.items():
        text = text.replace(ours, small)
    return text


COMMANDS = [(row[0], code(row)) for row in ROWS if code(row).startswith("python ")]
PYTHON = [(row[0], code(row)) for row in ROWS if code(row) and not code(row).startswith("python ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrate")
    make_tiny_runs(folder)
    song = make_song(5, 44100, 8.0, artist="otto organ").audio
    for name in ("song.mp3", "music/song.mp3"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_audio(folder / name, song, 44100)
    (folder / "lyrics.txt").write_text("la la la\n", encoding="utf-8")
    shutil.copytree(RECORDED, folder / "FOLDER")
    (folder / "tables").mkdir()
    for kind, known in {"artist": ARTISTS, "genre": GENRES}.items():
        lines = "".join(f"{name};{number}\n" for name, number in known.items())
        for version in ("", "v2_", "v3_"):
            (folder / "tables" / f"{version}{kind}_ids.txt").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture
def stand_ins(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models under the names of the released ones."""
    monkeypatch.chdir(place)
    monkeypatch.setattr("jukebox.data.artist_genre_processor.LOCAL_TABLES", place / "tables")
    model = find_model("logs/up0,logs/up1,logs/top")
    levels = [Hyperparams(level.hps, labels_dir=str(place / "tables")) for level in model.levels if level is not None]
    names = ["upsampler_level_0", "upsampler_level_1", "prior_5b"]
    sets = {"vqvae": model.vqvae_hps, **dict(zip(names, levels, strict=True)), "prior_5b_lyrics": levels[2]}
    for name, hps in sets.items():
        monkeypatch.setitem(HPARAMS_REGISTRY, name, hps)


def test_the_table_is_read() -> None:
    assert {row[0] for row in ROWS} == {"original", "jukemir", "jukemirlib", "transformers"}
    assert len(COMMANDS) >= 6 and len(PYTHON) >= 15


@pytest.mark.parametrize(("origin", "command"), COMMANDS)
def test_commands(origin: str, command: str, place: Path, request: pytest.FixtureRequest) -> None:
    script, *words = shlex.split(command)[1:]
    if script == "jukebox/train.py":
        train.read_hps({**parse_flags(words, train.flags()), "dry_run": True})
        return
    request.getfixturevalue("stand_ins")
    words = shlex.split(fitted(command, {**SMALLER, **SHORTER}))[2:]
    if script == "jukebox/represent.py":
        flags = {flag.name: flag.default for flag in represent.FLAGS}
        assert represent.main(**{**flags, **parse_flags(words, represent.FLAGS), "device": "cpu"}) == 0
        assert np.load("features/song.mp3.npy").shape == (1, 16)
        return
    assert script == "jukebox/sample.py"
    short = {"sample_length_in_seconds": 2.304, "n_samples": 1, "device": "cpu", "unknown_labels": "ok"}
    flags = {**parse_flags(words, sample.FLAGS), **short}
    assert sample.main(**flags) == 0
    assert (Path(str(flags["name"])) / "level_0/item_0.wav").is_file()


def test_python(place: Path, stand_ins: None, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"hps": {}}
    Path("features").mkdir(exist_ok=True)
    if not Path("features/song.mp3.npy").is_file():
        np.save("features/song.mp3.npy", np.zeros((1, 16), np.float32))
    for origin, text in sorted(PYTHON, key=lambda row: "save_checkpoint(" in row[1]):
        exec(fitted(text, {**SMALLER, **LONGER, **SHORTER} if origin == "transformers" else SMALLER), names)
        if "FOLDER" in text:  # whose alphabet has nine letters
            assert names["model"].sr == 100
            names["model"] = jukebox.load("5b_lyrics")
    vars(jukebox.sample).pop("sample_level", None)
    assert names["zs"][2].shape == (1, 32) and names["features"].shape == (16,)
    assert names["mean"].shape == (16,) and names["rows"].shape[1] == 16 and len(names["rows"]) > 32
    np.testing.assert_allclose(names["mean"], names["rows"].mean(0), atol=1e-4)
    assert len(names["songs"][0].audio) == 576 and len(names["longer"][0].audio) == 640
    assert len(names["primed"][0].audio) == 576 and names["codes"].ndim == 1
    assert Path("song.wav").is_file() and Path("mine.pth.tar").is_file()
