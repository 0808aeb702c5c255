"""Folders of audio through `represent.py`: what is written, what is skipped, and what is said of files and flags that
are not right. That the numbers are right is shown in `tests/features/`.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny_models import SR, make_tiny_runs

from jukebox.data.synthesizer import make_song
from jukebox.features import feature_writer
from jukebox.features.activations import Extractor
from jukebox.features.feature_writer import FeatureWriter, remove_stale
from jukebox.features.results import MeanFile, RowsFile, find_note, note_path
from jukebox.loaders import Model, find_model
from jukebox.represent import FLAGS, main
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError
from jukebox.utils.files import only_writer

ROOT = Path(__file__).parents[1]
DEFAULTS = {flag.name: flag.default for flag in FLAGS}
FILES = ["a.wav", "b.mp3", "below/a.flac", "below/c.wav"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_runs(tmp_path_factory.mktemp("tiny"))


@pytest.fixture()
def songs(tmp_path: Path) -> Path:
    """Four songs of 2 to 5 s in several formats and rates, one of them in stereo."""
    folder = tmp_path / "songs"
    for i, name in enumerate(FILES):
        rate = 44100 if name == "b.mp3" else 8000
        song = make_song(i, rate, 2.0 + i).audio
        write_audio(folder / name, np.stack([song, 0.5 * song[::-1]], axis=1) if name == "b.mp3" else song, rate)
    return folder


def flags(songs: Path, model: str, /, **more: Any) -> dict[str, Any]:
    given = dict(model=model, audio_files_dir=str(songs), out=str(songs.parent / "out"), layers=2, device="cpu")
    return {**DEFAULTS, **given, **more}


def command_line(songs: Path, model: str) -> list[str]:
    return [f"--{key}={value}" for key, value in flags(songs, model).items() if value != DEFAULTS[key]]


def written(out: Path) -> dict[str, float]:
    """All files below a folder with their times of change."""
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def damage(path: Path) -> None:
    path.write_bytes(b"this is no music" * 100)


# --------------------------------------------------------------------------------------------------- whole runs


def test_every_file_gets_an_array_and_a_note(songs: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = songs.parent / "out"
    assert main(**flags(songs, model, layers=(4, 2), artist="somebody")) == 0
    assert set(written(out)) == {f"{name}.{end}" for name in FILES for end in ("npy", "json")}
    for i, name in enumerate(FILES):
        array = np.load(out / f"{name}.npy")
        assert array.shape == (2, 16) and array.dtype == np.float32 and np.isfinite(array).all()
        note = json.loads((out / f"{name}.json").read_text())
        assert note["layers"] == [2, 4] and note["shape"] == [2, 16] and note["model"] == model
        assert (note["sr"], note["hop"], note["level"], note["pool"], note["artist"]) == (SR, 16, 2, "mean", "somebody")
        assert note["audio"] == name and note["audio_bytes"] == (songs / name).stat().st_size
        assert note["seconds"] == pytest.approx(2.0 + i, abs=0.1)
        assert note["positions"] == int(note["seconds"] * SR) // 16
    text = capsys.readouterr().out
    assert f"4 files made, 0 there before: {out} holds features of 4" in text.splitlines()[-1]


def test_positions_in_time(songs: Path, model: str) -> None:
    assert main(**flags(songs, model, pool="none", level="1", hop_fraction=0.5, batch_size=2)) == 0
    for name in FILES:
        array = np.load(songs.parent / "out" / f"{name}.npy", mmap_mode="r")
        note = json.loads(note_path(songs.parent / "out", name).read_text())
        assert array.shape == (1, note["positions"], 16) == tuple(note["shape"])
        assert note["hop"] * note["positions"] == pytest.approx(note["seconds"] * SR, abs=8)


def test_what_is_done_is_skipped(songs: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = songs.parent / "out"
    assert main(**flags(songs, model)) == 0
    before = written(out)
    assert main(**flags(songs, model)) == 0
    assert written(out) == before
    assert "0 files made, 4 there before" in capsys.readouterr().out

    write_audio(songs / "new.wav", make_song(9, 8000, 2.0).audio, 8000)  # a new file,
    write_audio(songs / "a.wav", make_song(8, 8000, 3.0).audio, 8000)  # one that is another now,
    (out / "b.mp3.npy").write_bytes((out / "b.mp3.npy").read_bytes()[:-4])  # one that is cut,
    (out / "below" / "c.wav.json").write_text("{")  # and one without its note
    assert main(**flags(songs, model)) == 0
    after = written(out)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {f"{n}.{e}" for n in ("new.wav", "a.wav", "b.mp3", "below/c.wav") for e in ("npy", "json")}
    assert "4 files made, 1 there before" in capsys.readouterr().out


def test_results_of_other_settings_are_not_mixed(songs: Path, model: str) -> None:
    assert main(**flags(songs, model)) == 0
    before = written(songs.parent / "out")
    message = r"a\.wav\.npy was made with layers=2 instead of 3, pool='mean' instead of 'none': choose another --out"
    with pytest.raises(UserError, match=message):
        main(**flags(songs, model, layers=3, pool="none"))
    assert written(songs.parent / "out") == before


def test_files_that_cannot_be_read_are_named_and_left_out(
    songs: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(songs / "bad.mp3")
    (songs / "empty.wav").write_bytes(b"")
    (songs / "notes.txt").write_text("no audio")
    assert main(**flags(songs, model)) == 1
    text = capsys.readouterr().out
    assert "4 files made, 0 there before" in text and "2 left out" in text
    last = text.splitlines()[-2:]
    assert last[0].startswith("  bad.mp3: cannot") and last[1].startswith("  empty.wav: cannot")
    assert len(written(songs.parent / "out")) == 8
    assert main(**flags(songs, model)) == 1  # they are tried again, in case they were fixed
    assert "0 files made, 4 there before" in capsys.readouterr().out


def test_links_to_nowhere_and_samples_that_are_no_numbers(
    songs: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (songs / "gone.wav").symlink_to(songs / "nowhere.wav")
    soundfile.write(songs / "nan.wav", np.array([0.1, np.nan] * 2000, np.float32), 8000, subtype="FLOAT")
    assert main(**flags(songs, model)) == 1
    text = capsys.readouterr().out
    assert "4 files made, 0 there before" in text and "2 left out" in text
    last = text.splitlines()[-2:]
    assert last[0].startswith("  gone.wav: cannot read") and "nan.wav: 2000 of its samples are not finite" in last[1]
    assert len(written(songs.parent / "out")) == 8


def test_half_precision_is_another_setting(songs: Path, model: str) -> None:
    assert main(**flags(songs, model, fp16=False)) == 0
    assert main(**flags(songs, model)) == 0  # on a CPU the same
    with pytest.raises(UserError, match="was made with dtype='fp32' instead of 'fp16': choose another --out"):
        main(**flags(songs, model, fp16=True))


@pytest.mark.skipif(os.name == "nt", reason="names of POSIX")
@pytest.mark.parametrize("out", ["file", "file/x", "n" * 300, "/dev/null", "/proc/nope"])
def test_a_bad_folder_is_refused_before_anything_is_loaded(
    songs: Path, model: str, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(songs.parent)
    Path("file").write_text("")
    monkeypatch.setattr(Model, "vqvae", None)
    with pytest.raises(UserError, match=r"^--out=.*: cannot write there \(.*\); give a folder"):
        main(**flags(songs, model, out=out))


def test_as_a_command(songs: Path, model: str) -> None:
    """Both ways to start it; progress and the end are told."""
    damage(songs / "bad.wav")
    command = [sys.executable, "jukebox/represent.py", *command_line(songs, model), "--nofp16"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 1, result.stderr
    assert "left out: cannot open" in result.stdout and "100%" in result.stderr
    assert "4 files made, 0 there before" in result.stdout and "Traceback" not in result.stderr
    (songs / "bad.wav").unlink()
    command[1:2] = ["-m", "jukebox.represent"]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert again.returncode == 0 and "0 files made, 4 there before" in again.stdout


def test_help_is_quick_and_complete() -> None:
    code = (
        "import sys, runpy; sys.argv[1:] = ['--help']\n"
        "try: runpy.run_path('jukebox/represent.py', run_name='__main__')\n"
        "except SystemExit as end: sys.exit(end.code or int('torch' in sys.modules) * 9)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    assert all(f"--{flag.name}" in result.stdout for flag in FLAGS)
    assert "Layers are counted from 1" in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path(sys.executable).with_name("mpiexec").exists(), reason="needs the mpich package")
def test_two_processes_share_the_files(songs: Path, model: str) -> None:
    damage(songs / "bad.wav")
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2"]
    command = [*launcher, sys.executable, "jukebox/represent.py", *command_line(songs, model), "--port=29571"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert result.returncode == 1, result.stderr
    assert result.stdout.count("4 files made, 0 there before") == 1 and "bad.wav" in result.stdout
    together = {name: np.load(songs.parent / "out" / f"{name}.npy") for name in FILES}
    (songs / "bad.wav").unlink()
    assert main(**flags(songs, model, out=str(songs.parent / "alone"))) == 0
    for name, array in together.items():
        np.testing.assert_allclose(array, np.load(songs.parent / "alone" / f"{name}.npy"), atol=2e-5)


# --------------------------------------------------------------------------------------------------- wrong uses


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(model=""), "--model is missing: give a model, such as --model=5b"),
        (dict(out=""), "--out is missing: give a folder, such as --out=features"),
        (dict(audio_files_dir=""), "--audio_files_dir is missing"),
        (dict(audio_files_dir="no/such/folder"), "is not a folder"),
        (dict(layers=None), "--layers is missing: give layers counted from 1, such as --layers=36 or --layers=24,36"),
        (dict(layers=0), "--layers=0: give layers counted from 1"),
        (dict(layers="all"), "--layers=all"),
        (dict(layers=(1, 9)), "--layers=1,9: level 2 of model .* has layers 1 to 4"),
        (dict(level="lowest"), "--level=lowest: choose top or a number from 0 to 2"),
        (dict(level="3"), "--level=3: model .* has priors of levels 0, 1, 2"),
        (dict(pool="max"), "--pool=max: choose mean or none"),
        (dict(batch_size=0), "--batch_size=0: must be 1 or more"),
        (dict(hop_fraction=2), "--hop_fraction=2: must be above 0 and at most 1"),
        (dict(hop_fraction="x"), "--hop_fraction=x: give a number"),
        (dict(model="6b"), "unknown model '6b'"),
        (dict(level="²"), "--level=².*choose top or a number"),
        (dict(port="x"), "--port=x: give a whole number"),
        (dict(port=65536), "--port=65536: must be 65535 or less"),
        (dict(device="cpu:3"), "--device=cpu:3: choose cuda"),
    ],
)
def test_wrong_uses_say_what_to_type(songs: Path, model: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(**flags(songs, model, **given))
    assert not (songs.parent / "out").exists()


def test_a_folder_without_audio(tmp_path: Path, model: str) -> None:
    (tmp_path / "songs").mkdir()
    with pytest.raises(UserError, match="there is no audio file in it or below"):
        main(**flags(tmp_path / "songs", model))


# --------------------------------------------------------------------------------------------------- nothing is spoilt


def make_job(songs: Path, model: str, out: Path, pool: str = "mean", batch: int = 2) -> FeatureWriter:
    settings = dict(model=model, weights_from="", level=2, layers=[2], pool=pool, hop_fraction=1.0, artist="", genre="")
    settings["dtype"] = "fp32"
    return FeatureWriter(
        Extractor(find_model(model), 2, [2], torch.device("cpu")), songs, out, settings, batch, say=SAID.append
    )


SAID: list[str] = []


@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize("windows", [0, 1, 2, 4])
def test_an_interrupted_job_goes_on(
    songs: Path, model: str, monkeypatch: pytest.MonkeyPatch, pool: str, windows: int
) -> None:
    """Whenever it stops, what exists is complete, and the same job ends with what an undisturbed one gives."""
    out = songs.parent / "out"
    job = make_job(songs, model, out, pool, batch=1)
    run, count = job.extractor.run, [0]

    def stops(batch: Any) -> Any:
        count[0] += 1
        if count[0] > windows:
            raise KeyboardInterrupt
        yield from run(batch)

    monkeypatch.setattr(job.extractor, "run", stops)
    with pytest.raises(KeyboardInterrupt):
        job.run(FILES)
    done = [name for name in FILES if find_note(out, name, job.settings, (songs / name).stat().st_size)]
    assert len(done) == job.outcome.made
    assert set(written(out) if out.exists() else {}) == {f"{name}.{e}" for name in done for e in ("npy", "json")}
    rest = [name for name in FILES if name not in done]
    assert make_job(songs, model, out, pool).run(rest).made == len(rest)
    make_job(songs, model, songs.parent / "whole", pool).run(FILES)
    for name in FILES:
        whole = np.load(songs.parent / "whole" / f"{name}.npy")
        np.testing.assert_allclose(np.load(out / f"{name}.npy"), whole, atol=2e-5)


def test_the_command_stops_cleanly(
    songs: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureWriter, "_run_batch", stop)
    assert main(**flags(songs, model)) == 130
    assert "stopped: 0 more files complete; the same command resumes" in capsys.readouterr().err


def test_a_batch_that_does_not_fit_is_halved(songs: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = songs.parent / "wanted"
    make_job(songs, model, wanted, "none", batch=1).run(FILES)
    job = make_job(songs, model, songs.parent / "out", "none", batch=8)
    run, sizes = job.extractor.run, []

    def small(batch: Any) -> Any:
        sizes.append(len(batch))
        results = run(batch)
        if len(batch) > 2:
            next(results)  # memory runs out in the middle
            raise torch.OutOfMemoryError
        yield from results

    monkeypatch.setattr(job.extractor, "run", small)
    SAID.clear()
    assert job.run(FILES).made == len(FILES)
    assert sizes[:6] == [8, 4, 2, 2, 2, 2] and max(sizes[6:], default=0) <= 2
    assert SAID == [f"out of memory with {n} windows at a time: continuing with {n // 2}" for n in (8, 4)]
    for name in FILES:
        np.testing.assert_allclose(
            np.load(songs.parent / "out" / f"{name}.npy"), np.load(wanted / f"{name}.npy"), atol=2e-5
        )


def test_not_even_one_window_fits(songs: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(songs, model, songs.parent / "out")

    def never(batch: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        yield

    monkeypatch.setattr(job.extractor, "run", never)
    with pytest.raises(UserError, match="one window of 32 positions does not fit the memory of cpu: use another"):
        job.run(FILES)
    assert not (songs.parent / "out").exists()


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_a_full_disk_leaves_what_is_whole(songs: Path, model: str, monkeypatch: pytest.MonkeyPatch, pool: str) -> None:
    out = songs.parent / "out"
    job = make_job(songs, model, out, pool, batch=1)
    add, count = {"mean": MeanFile.finish, "none": RowsFile.add}[pool], [0]

    def full(self: Any, *arguments: Any) -> None:
        count[0] += 1
        if count[0] > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, *arguments)

    monkeypatch.setattr(MeanFile if pool == "mean" else RowsFile, add.__name__, full)
    with pytest.raises((UserError, OSError), match=r"[Nn]o space left"):
        job.run(FILES)
    assert all(name.endswith((".npy", ".json")) for name in written(out))
    assert len(written(out)) == 2 * job.outcome.made


def test_two_jobs_in_one_folder(songs: Path, model: str) -> None:
    pytest.importorskip("fcntl")
    out = songs.parent / "out"
    out.mkdir()
    with only_writer(out, "out"):
        with pytest.raises(UserError, match="^--out=.*: another process is writing to this folder; wait"):
            main(**flags(songs, model))
    assert written(out) == {}


def test_what_a_killed_job_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    old, fresh, other = (tmp_path / "below" / name for name in (".a.wav.npy.x1.tmp", ".b.wav.json.x2.tmp", ".c.tmp"))
    for path in (old, fresh, other):
        path.write_text("")
    then = time.time() - feature_writer.STALE - 5
    os.utime(old, (then, then))
    os.utime(other, (then, then))
    remove_stale(tmp_path)
    assert not old.exists() and fresh.exists() and other.exists()


def test_a_misspelled_artist_stops(songs: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = flags(songs, model, out=str(songs.parent / "misspelled"), artist="sombody")
    with pytest.raises(UserError, match="'sombody' is not known to the model; nearest: somebody.*--unknown_labels=ok"):
        main(**wrong)
    assert main(**{**wrong, "unknown_labels": "ok"}) == 0
    assert "'sombody' is not known" in capsys.readouterr().out
