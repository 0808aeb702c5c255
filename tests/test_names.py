"""Names of files and flags that name them: `~`, `$VAR`, patterns, commas, and bytes that are not UTF-8."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import make_tiny_runs
from tiny_training import PRIOR, VQVAE

from jukebox import align, reconstruct, represent, sample, train
from jukebox.data import build_labels, synthesizer
from jukebox.utils.audio.index import AudioIndex, find_audio_files
from jukebox.utils.audio.write import write_audio
from jukebox.utils.command_line import Flag, parse_flags
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import expand_path, find_files

COMMANDS = [
    (sample.FLAGS, "weights_from name codes_file lyrics_file metas"),
    (represent.FLAGS, "weights_from audio_files_dir out"),
    (reconstruct.FLAGS, "audio_files_dir name"),
    (align.FLAGS, "weights_from logdir"),
    (train.flags(), "local_logdir audio_files_dir labels_dir metadata_py codes_dir restore_vqvae restore_prior"),
    (build_labels.FLAGS, "audio_files_dir out metadata_py vocab"),
    (synthesizer.FLAGS, "out"),
]


@pytest.fixture()
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MUSIC", str(tmp_path / "home" / "music"))
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "home" / "music").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# ------------------------------------------------------------------------------------------------- ~ and $VAR


@pytest.mark.parametrize(("flags", "names"), COMMANDS)
def test_every_path_flag_of_every_command(home: Path, flags: list[Flag], names: str) -> None:
    for name in names.split():
        for typed, meant in (
            ("~/a b", f"{home}/a b"),
            ("$MUSIC/x", f"{home}/music/x"),
            ("${MUSIC}x", f"{home}/musicx"),
            ("plain/a,b", "plain/a,b"),
        ):
            assert parse_flags([f"--{name}={typed}"], flags) == {name: meant}
            assert parse_flags([f"--{name}", typed], flags) == {name: meant}


@pytest.mark.parametrize("flags", [sample.FLAGS, represent.FLAGS, align.FLAGS, reconstruct.FLAGS])
def test_models_are_names_or_paths(home: Path, flags: list[Flag]) -> None:
    assert parse_flags(["--model=5b_lyrics"], flags) == {"model": "5b_lyrics"}
    assert parse_flags(["--model=~/logs/top"], flags) == {"model": f"{home}/logs/top"}
    if flags is not reconstruct.FLAGS:
        assert parse_flags(["--model=~/up,$MUSIC/top"], flags) == {"model": f"{home}/up,{home}/music/top"}


@pytest.mark.parametrize(
    ("text", "made"), [("$MUSIC", "$MUSIC"), ("~", "~"), ("a$MUSIC.wav", "a$MUSIC.wav"), ("https://a/$MUSIC", "")]
)
def test_what_exists_and_addresses_stay(home: Path, text: str, made: str) -> None:
    if made:
        touch(Path(made))
    assert expand_path(text) == text


def test_unknown_variables_stay(home: Path) -> None:
    assert expand_path("$NOT_SET/a") == "$NOT_SET/a"
    assert expand_path("~nobody_of_this_name/a") == "~nobody_of_this_name/a"


# ------------------------------------------------------------------------------------------------- several files


def test_patterns_commas_and_repeated_flags(home: Path) -> None:
    names = ["t1.wav", "t2.wav", "a,b.wav", "a", "c.wav", "[x].wav", "t3.mp3", " lead.wav", "t*.ogg", "-dash.wav"]
    touch(*(Path(name) for name in names), home / "h.wav", home / "h2.wav")
    cases: list[tuple[Any, list[str]]] = [
        ("t*.wav", ["t1.wav", "t2.wav"]),
        ("t?.*", ["t*.ogg", "t1.wav", "t2.wav", "t3.mp3"]),
        ("t*.ogg", ["t*.ogg"]),
        ("[x].wav", ["[x].wav"]),
        ("[ct]*.wav", ["c.wav", "t1.wav", "t2.wav"]),
        ("a,b.wav", ["a,b.wav"]),
        ("a,c.wav", ["a", "c.wav"]),
        ("c.wav,a,b.wav", ["c.wav", "a,b.wav"]),
        ("a,b.wav,t*.wav, c.wav", ["a,b.wav", "t1.wav", "t2.wav", "c.wav"]),
        ("c.wav,,", ["c.wav"]),
        (" lead.wav", [" lead.wav"]),
        ("-dash.wav", ["-dash.wav"]),
        ("~/h.wav,$HOME/h2.wav", [f"{home}/h.wav", f"{home}/h2.wav"]),
        ("~/h*.wav", [f"{home}/h.wav", f"{home}/h2.wav"]),
        (["c.wav", "t*.wav", "a,b.wav"], ["c.wav", "t1.wav", "t2.wav", "a,b.wav"]),
        ("", []),
    ]
    for given, wanted in cases:
        assert find_files("audio_file", given) == wanted, given
    for given in ("none.wav", "z*.wav", "c.wav,none.wav", str(home), "a,none.wav"):
        with pytest.raises(UserError, match=r"--audio_file=\S+: there is no such file"):
            find_files("audio_file", given)


@pytest.mark.parametrize("flags", [sample.FLAGS, reconstruct.FLAGS])
def test_audio_file_may_be_repeated(home: Path, flags: list[Flag]) -> None:
    def parse(*words: str) -> Any:
        return parse_flags(words, flags)["audio_file"]

    assert parse("--audio_file=a.wav") == "a.wav"
    assert parse("--audio_file=a.wav", "--audio_file=b.wav,c.wav") == ["a.wav", "b.wav,c.wav"]
    assert parse("--audio_file", "a.wav", "b.wav", "--model=demo") == ["a.wav", "b.wav"]
    assert parse("--audio_file", "a.wav", "--name=x", "--audio-file=b.wav") == ["a.wav", "b.wav"]


# ------------------------------------------------------------------------------------------------- not UTF-8

LATIN = os.fsdecode("M\xfcller".encode("latin-1"))
SONGS = [f"{LATIN}.wav", f"{LATIN}/caf\udce9.flac", "plain.wav"]


@pytest.fixture()
def latin(home: Path, tmp_path: Path) -> Path:
    folder = tmp_path / f"old {LATIN}"
    for i, name in enumerate(SONGS):
        try:
            write_audio(folder / name, 0.3 * np.sin(np.arange(24000) / (7 + i)), 8000)
        except (OSError, UserError):
            pytest.skip("this file system takes UTF-8 names only")
        (folder / name).with_suffix(".json").write_text(f'{{"artist": "artist {i}", "genre": "waltz"}}')
    (folder / "text.wav").write_text("no music")
    (folder / f"{LATIN} broken.wav").write_text("no music")
    return folder


def test_the_index_keeps_them(latin: Path) -> None:
    names, _, _ = find_audio_files(latin)
    assert set(SONGS) < set(names)
    first = AudioIndex(latin).look_up(names)
    assert [first[name].seconds for name in SONGS] == [3.0] * 3
    stored = json.loads((latin / ".jukebox_index.json").read_text(encoding="utf-8"))
    assert set(stored["files"]) == set(SONGS)
    again = AudioIndex(latin)
    assert again._entries == {name: first[name] for name in SONGS}


def test_features_and_reconstruction(latin: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = make_tiny_runs(tmp_path / f"model {LATIN}")
    out = tmp_path / f"out {LATIN}"
    flags = {flag.name: flag.default for flag in represent.FLAGS}
    flags.update(model=model, audio_files_dir=str(latin), out=str(out), layers=2, device="cpu")
    assert [represent.main(**flags) for _ in range(2)] == [1, 1]  # for the broken ones
    assert all((out / f"{name}.npy").is_file() for name in SONGS)
    assert json.loads((out / f"{SONGS[1]}.json").read_text())["audio"] == SONGS[1]
    flags = {flag.name: flag.default for flag in reconstruct.FLAGS}
    flags.update(model=str(tmp_path / f"model {LATIN}/logs/vq"), name=str(out / "page"), levels=2, device="cpu")
    for given in ({"audio_files_dir": str(latin)}, {"audio_file": [str(latin / name) for name in SONGS]}):
        assert reconstruct.main(**{**flags, **given}) == ("audio_files_dir" in given)
    flags = dict(model=model, name=str(out / "song"), mode="primed", audio_file=str(latin / SONGS[1]), device="cpu")
    flags.update(sample_length_in_seconds=2.4, prompt_length_in_seconds=1.5, lyrics="la", artist="somebody")
    assert not sample.main(**flags, genre="waltz", total_sample_length_in_seconds=10)
    assert (out / "song" / "level_0" / "index.html").is_file()
    report = json.loads((out / "page" / "report.json").read_text())
    assert [Path(item["audio"]).name for item in report["items"]] == [Path(name).name for name in SONGS]
    capfd.readouterr()


def test_training_and_label_tables(latin: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        build_labels.command(["build", f"--audio_files_dir={latin}", f"--out={tmp_path / f'tables {LATIN}'}"])
    assert end.value.code in (0, 1)
    assert (tmp_path / f"tables {LATIN}" / "artist_ids.txt").is_file()
    given = {**VQVAE, "train": True, "epochs": 1, "bs": 2, "nworkers": 1, "device": "cpu", "sample_iters": -1}
    given.update(audio_files_dir=str(latin), sr=4000, train_test_split=1.0, local_logdir=f"logs {LATIN}")
    assert train.main(**given, name="vq") == 1
    prior = {**given, **PRIOR, "labels": True, "labels_v3": True, "labels_dir": str(tmp_path / f"tables {LATIN}")}
    prior.update(y_bins=[2, 4], t_bins=8, max_bow_genre_size=1, min_duration=1.0, max_duration=9.0)
    prior.update(restore_vqvae=f"logs {LATIN}/vq/checkpoint_latest.pth.tar", codes_dir=f"codes {LATIN}", nworkers=0)
    assert train.main(**prior, name=f"top {LATIN}") == 1
    assert "3 songs" in capfd.readouterr().out
