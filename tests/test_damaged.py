"""No file of a folder is left out or cut without its name and reason in the output, and the exit status says so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_files import break_disk, lock_folder, make_bad_folder
from tiny_models import make_tiny_runs
from tiny_training import VQVAE

from jukebox import reconstruct, represent, train
from jukebox.data import build_labels
from jukebox.data.data_processor import DataProcessor
from jukebox.data.files_dataset import FilesAudioDataset
from jukebox.hparams import Hyperparams, setup_hparams
from jukebox.sampling.prompts import load_prompts
from jukebox.utils.audio.index import AudioIndex
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError

REASONS = {
    "cut.wav": "breaks off at 3.00 s",
    "eio.wav": "beyond",  # and how far it can be read
    "text.wav": "cannot",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_runs(tmp_path_factory.mktemp("tiny"))


@pytest.fixture()
def songs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "songs"
    make_bad_folder(folder)
    break_disk(monkeypatch, 70_000, "eio")
    return folder


def check_named(text: str) -> None:
    for name, reason in REASONS.items():
        assert any(name in line and reason in line for line in text.splitlines()), (name, text)


def run_features(songs: Path, model: str, **more: Any) -> int:
    defaults = {flag.name: flag.default for flag in represent.FLAGS}
    given = dict(model=model, audio_files_dir=str(songs), out=str(songs.parent / "out"), layers=2, device="cpu")
    return represent.main(**{**defaults, **given, **more})


def test_features(songs: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = songs.parent / "out"
    for _ in range(2):  # what is done, and cut, is said again
        assert run_features(songs, model) == 1
        text = capsys.readouterr().out
        check_named(text)
        assert "good.wav" not in text
    assert {path.name for path in out.glob("*.npy")} == {"good.wav.npy", "cut.wav.npy"}  # eio counts as not done
    assert run_features(songs, model, damaged="keep") == 1
    text = capsys.readouterr().out
    check_named(text)
    note = json.loads((out / "eio.wav.json").read_text())
    assert (
        2.0 < note["seconds"] < 4.6 and f"is used up to {note['seconds']:.2f} s" in note["cut"] and note["cut"] in text
    )
    (songs / "cut.wav").unlink()
    (songs / "text.wav").unlink()
    (songs / "eio.wav").unlink()
    assert run_features(songs, model) == 0
    with pytest.raises(UserError, match="--damaged=both: choose refuse or keep"):
        run_features(songs, model, damaged="both")


@pytest.mark.parametrize("damaged", ["refuse", "keep"])
def test_reconstruction(songs: Path, model: str, capsys: pytest.CaptureFixture[str], damaged: str) -> None:
    given = {flag.name: flag.default for flag in reconstruct.FLAGS}
    given.update(model=model.split(",")[0], audio_files_dir=str(songs), name=str(songs.parent / "page"))
    given.update(levels=2, device="cpu", damaged=damaged)
    given["model"] = str(Path(given["model"]).parent / "vq")
    assert reconstruct.main(**given) == 1
    check_named(capsys.readouterr().out)
    report = json.loads((songs.parent / "page" / "report.json").read_text())
    seconds = {Path(item["audio"]).name: item["seconds"] for item in report["items"]}
    assert seconds["good.wav"] == 6 and seconds["cut.wav"] == pytest.approx(3, abs=0.01)
    assert ("eio.wav" in seconds) == (damaged == "keep")
    for name in REASONS:
        (songs / name).unlink()
    given["name"] += "_good"
    assert reconstruct.main(**given) == 0


def train_hps(folder: Path, **more: Any) -> Hyperparams:
    return setup_hparams("", dict(audio_files_dir=str(folder), labels=False, **{**VQVAE, **more}))


@pytest.mark.parametrize("damaged", ["refuse", "keep"])
@pytest.mark.parametrize("workers", [0, 2])
def test_data_of_a_training(songs: Path, capfd: pytest.CaptureFixture[str], damaged: str, workers: int) -> None:
    (songs / "later.wav").write_bytes((songs / "good.wav").read_bytes())
    data = DataProcessor(train_hps(songs, damaged=damaged, nworkers=workers, bs=4))
    check_named(capfd.readouterr().out)
    assert (songs / "eio.wav").as_posix() in [*data.dataset.files] or damaged == "refuse"
    (songs / "later.wav").unlink()  # while training
    batches = [*data.train_loader, *data.test_loader]
    assert batches and all(x.shape[1:] == (2048, 2) and torch.isfinite(x).all() for x in batches)
    said = capfd.readouterr().err
    assert said.count("later.wav") == 1 and "No such file" in said
    assert data.dataset.is_incomplete()


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("boom"), MemoryError(), OSError(5, "Input/output error")]
)
def test_whatever_a_decoder_raises_ends_no_worker(
    songs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    (songs / "odd.wav").write_bytes((songs / "good.wav").read_bytes())
    data = FilesAudioDataset(train_hps(songs))
    from jukebox.utils.audio.reader import AudioReader

    read = AudioReader.read

    def odd(reader: AudioReader, *place: Any, **more: Any) -> np.ndarray:
        if "odd" in reader.file:
            raise error
        return read(reader, *place, **more)

    monkeypatch.setattr(AudioReader, "read", odd)
    loader = torch.utils.data.DataLoader(data, batch_size=8, num_workers=2, multiprocessing_context="fork")
    assert sum(len(x) for x in loader) == len(data)
    assert 1 <= capfd.readouterr().err.count("odd.wav") <= 2  # once by each worker that came to it at once


def test_label_tables(songs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for status in (1, 0):
        with pytest.raises(SystemExit) as end:
            build_labels.command(["build", f"--audio_files_dir={songs}", f"--out={songs.parent / 'tables'}"])
        assert end.value.code == status
        out = capfd.readouterr().out
        for name in ("text.wav", "eio.wav"):
            assert sum(line.startswith("left out: ") and name in line for line in out.splitlines()) == status
            (songs / name).unlink(missing_ok=True)


def test_short_songs_are_named(songs: Path) -> None:
    """By a limit that was given, and by none: a song that is shorter than a chunk counts as left out then."""
    for name in REASONS:
        (songs / name).unlink()
    write_audio(songs / "short.wav", np.zeros(1200), 8000)
    write_audio(songs / "long.wav", np.zeros(80_000), 8000)
    for given, status, told in (({"min_duration": 3.5, "max_duration": 9}, False, 0), ({"max_duration": 9}, True, 1)):
        data = FilesAudioDataset(train_hps(songs, **given))
        said = data.describe()
        assert {"left out: short.wav is 0.1 s long", "left out: long.wav is 10.0 s long"} < set(said)
        assert sum("--min_duration=1 says" in line for line in said) == told
        assert data.is_incomplete() == status


def test_a_folder_that_cannot_be_read(
    songs: Path, model: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in REASONS:
        (songs / name).unlink()
    (songs / "locked").mkdir()
    write_audio(songs / "locked" / "a.wav", np.zeros(48000), 8000)
    assert run_features(songs, model) == 0
    lock_folder(monkeypatch, songs / "locked")
    names = {"name": str(songs.parent / "page"), "device": "cpu", "levels": 2}
    given = {**{flag.name: flag.default for flag in reconstruct.FLAGS}, **names, "audio_files_dir": str(songs)}
    runs = [
        lambda: run_features(songs, model),
        lambda: reconstruct.main(**{**given, "model": str(Path(model.split(",")[0]).parent / "vq")}),
        lambda: build_labels.build(str(songs), str(songs.parent / "tables"), sample_length=0, sr=8000),
        lambda: int(FilesAudioDataset(train_hps(songs)).is_incomplete()),
    ]
    for run in runs:
        capfd.readouterr()
        assert run() == 1
        said = capfd.readouterr().out
        assert f"cannot read the folder {songs}/locked: Permission denied" in said or run is runs[3]
    assert f"left out: cannot read the folder {songs}/locked" in FilesAudioDataset(train_hps(songs)).describe()[1]
    (songs / "good.wav").unlink()
    for run in (runs[0], runs[1], runs[3]):
        with pytest.raises(UserError, match=r"locked: Permission denied"):
            run()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    assert "not a regular file" in AudioIndex(tmp_path).look_up(["a.wav"])["a.wav"].error


def test_training_ends_with_status_1(songs: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(songs.parent)
    given = {**VQVAE, "name": "run", "train": True, "epochs": 1, "bs": 8, "nworkers": 0, "device": "cpu"}
    given.update(audio_files_dir=str(songs), sample_iters=-1)
    assert train.main(**given) == 1
    out = capfd.readouterr().out
    check_named(out)
    assert "exit status 1" in out.splitlines()[-1] and ": done" in out
    assert (songs.parent / "logs" / "run" / "checkpoint_latest.pth.tar").is_file()
    for name in REASONS:
        (songs / name).unlink()
    assert train.main(**{**given, "name": "again", "train_test_split": 1.0}) == 0


def test_prompts(songs: Path) -> None:
    eio, cut = str(songs / "eio.wav"), str(songs / "cut.wav")
    with pytest.raises(UserError, match=r"cannot decode .*eio\.wav beyond"):
        load_prompts(eio, 8000 * 5, Hyperparams(sr=8000, n_samples=1))
    kept = Hyperparams(sr=8000, n_samples=1, damaged="keep")
    with pytest.warns(UserWarning, match=r"eio\.wav is used up to"):
        assert load_prompts(eio, 8000 * 5, kept).shape == (1, 8000 * 5, 1)
    with pytest.warns(UserWarning, match=r"cut\.wav breaks off at 3\.00 s"):
        load_prompts(cut, 8000 * 5, Hyperparams(sr=8000, n_samples=1))


def test_the_index_remembers_what_is_cut(songs: Path) -> None:
    for _ in range(2):  # by opening files, and by its own file
        entries = AudioIndex(songs).look_up(["cut.wav", "eio.wav", "good.wav", "text.wav"])
        assert "breaks off" in entries["cut.wav"].cut and not entries["cut.wav"].refusal("refuse")
        assert entries["eio.wav"].refusal("refuse") and not entries["eio.wav"].refusal("keep")
        assert 2.0 < entries["eio.wav"].seconds < 4.6
        assert entries["text.wav"].refusal("keep") and not entries["good.wav"].cut
