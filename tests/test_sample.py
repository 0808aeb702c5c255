"""Whole runs of `sample.py` on tiny models: the four modes, what they leave, and that nothing is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lives
import numpy as np
import pytest
import torch
from faults import Tried
from tiny_models import SAMPLES_PER_CODE, SR, make_tiny_runs
from utils.test_dist import free_port

from jukebox.hparams import Hyperparams
from jukebox.loaders import LazyPrior, Model, find_model, weights_mark
from jukebox.make_models import make_prior
from jukebox.native import build
from jukebox.sample import FLAGS, _sample, ancestral_sample, main
from jukebox.sampling import levels as levels_module
from jukebox.sampling.command import join_folders
from jukebox.sampling.flags import read_settings
from jukebox.sampling.report import Bars
from jukebox.sampling.state import RunState
from jukebox.utils.audio.read import load_audio, probe_audio
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError
from jukebox.utils.files import only_writer

ROOT = Path(__file__).parents[1]
# 36 tokens of the top level, so that it takes two windows; one hop is one window, to have few of them.
RUN: dict[str, Any] = dict(
    sample_length_in_seconds=2.304, hop_fraction=(1.0, 1.0, 0.5), seed=7, lyrics="la la la, the end"
)
TOTAL = 576
KILLS = 20  # of a run, and runs; `make faults` sets more of these
KILLED = max(1, int(os.environ.get("JUKEBOX_TEST_KILLS", "0")) // KILLS)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_runs(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def finished(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three songs."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(model=model, name=str(folder), n_samples=3, **RUN) == 0
    return folder


def data(folder: Path, level: int) -> dict[str, Any]:
    return torch.load(folder / f"level_{level}" / "data.pth.tar", weights_only=True)


def tokens(folder: Path) -> list[torch.Tensor]:
    return data(folder, 0)["zs"]


def assert_same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    for level, (x, y) in enumerate(zip(a, b, strict=True)):
        assert torch.equal(x, y), f"level {level} differs in {int((x != y).sum())} of {y.numel()} tokens"


# -------------------------------------------------------------------------------------------------- what a run leaves


def test_the_tables_of_a_run_travel_with_it(
    finished: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was trained with a relative --labels_dir is sampled, and restored, in another folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(model.partition(",")[0]).parent, "logs")
    for path in Path("logs").glob("*/checkpoint_latest.pth.tar"):
        content = torch.load(path, weights_only=True)
        content["hps"]["labels_dir"] = "MUSIC"
        torch.save(content, path)
    here = ",".join(f"logs/{Path(part).name}" for part in model.split(","))
    assert main(model=here, name="run", n_samples=3, **RUN) == 0
    assert_same(tokens(Path("run")), tokens(finished))
    found = find_model(here)
    assert found.top is not None
    prior = make_prior(found.top.hps, found.vqvae(1024, "cpu"), "cpu")
    assert prior.labeller.ag_processor.list_artists("some") == ["somebody"]


def test_a_run_leaves_what_was_promised(finished: Path) -> None:
    for level in (2, 1, 0):
        folder, saved = finished / f"level_{level}", data(finished, level)
        assert [z.shape for z in saved["zs"]] == [
            (3, TOTAL // per_code if i >= level else 0) for i, per_code in enumerate(SAMPLES_PER_CODE)
        ]
        assert all(z.dtype == torch.int64 for z in saved["zs"])
        assert saved["x"].shape == (3, TOTAL, 1) and saved["x"].dtype == torch.float32
        assert saved["labels"][2]["y"].shape == (3, 4 + 1 + 8)
        assert saved["labels"][2]["info"][0]["lyrics"] == RUN["lyrics"]
        assert saved["sampling_kwargs"][level]["temp"] == 0.99 and saved["sampling_kwargs"][level]["seed"] == 7
        assert "<html" in (folder / "index.html").read_text(encoding="utf-8")
        for i in range(3):
            wav = load_audio(folder / f"item_{i}.wav", SR, channels=1)[0]
            assert wav.shape == (1, TOTAL)
            assert np.allclose(wav[0], saved["x"][i, :, 0].clamp(-1, 1), atol=2**-14)
            assert (folder / f"item_{i}" / "align.json").is_file()
    assert not list(finished.rglob("*.tmp"))


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_the_engine_is_noted_and_changes_nothing(engine: str, finished: Path, model: str, tmp_path: Path) -> None:
    if engine == "native" and build.why_not():
        with pytest.raises(UserError, match="--engine=native: .*; use --engine=auto"):
            main(model=model, name=str(tmp_path / "run"), n_samples=3, **RUN, engine=engine)
        return
    assert main(model=model, name=str(tmp_path / "run"), n_samples=3, **RUN, engine=engine) == 0
    assert_same(tokens(tmp_path / "run"), tokens(finished))
    assert data(tmp_path / "run", 0)["sampling_kwargs"][0]["engine"] == engine
    page = (tmp_path / "run" / "level_0" / "index.html").read_text(encoding="utf-8")
    assert re.search(rf"Engine</dt>\s*<dd[^>]*>{engine}", page)


def test_int8_draws_alike_in_both_engines(model: str, tmp_path: Path) -> None:
    made = []
    for engine in ("auto", "eager"):
        folder = tmp_path / engine
        assert main(model=model, name=str(folder), n_samples=1, **RUN, engine=engine, dtype="int8", device="cpu") == 0
        made.append(tokens(folder))
    assert_same(*made)
    settings = RunState.load(tmp_path / "auto").settings
    assert settings["dtype"] == "int8"


def test_songs_differ_and_do_not_know_each_other(finished: Path, model: str, tmp_path: Path) -> None:
    three = tokens(finished)
    assert len(set(map(tuple, three[2].tolist()))) == 3
    assert main(model=model, name=str(tmp_path / "one"), n_samples=1, **RUN) == 0
    assert_same(tokens(tmp_path / "one"), [z[:1] for z in three])
    batch = dict(max_batch_size=(1, 2, 3), chunk_size=5)
    assert main(model=model, name=str(tmp_path / "cut"), n_samples=3, **RUN, **batch) == 0
    assert_same(tokens(tmp_path / "cut"), three)
    assert main(model=model, name=str(tmp_path / "other"), n_samples=1, **{**RUN, "seed": 8}) == 0
    assert not torch.equal(tokens(tmp_path / "other")[2], three[2][:1])


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_other_formats_with_tags(model: str, tmp_path: Path, suffix: str) -> None:
    run = {**RUN, "sample_length_in_seconds": 1.1, "format": suffix, "artist": "somebody", "genre": "polka"}
    assert main(model=model, name=str(tmp_path / "run"), **run) == 0
    folder = tmp_path / "run" / "level_0"
    assert not (folder / "item_0.wav").exists()
    seconds, found = probe_audio(folder / f"item_0.{suffix}")
    assert seconds == pytest.approx(1.088, abs=0.1)
    assert found["artist"] == "somebody" and found["genre"].lower() == "polka"
    assert "seed 7" in " ".join(found.values())


def test_one_prior_at_a_time(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    alive: list[weakref.ref[Any]] = []
    loaded: list[int] = []
    load = LazyPrior.load

    def watched(self: LazyPrior) -> Any:
        gc.collect()
        assert not any(ref() is not None for ref in alive), "the prior of the level before is still there"
        prior = load(self)
        alive.append(weakref.ref(prior))
        loaded.append(self.level)
        return prior

    monkeypatch.setattr(LazyPrior, "load", watched)
    assert main(model=model, name=str(tmp_path / "run"), **{**RUN, "sample_length_in_seconds": 1.1}) == 0
    assert loaded == [2, 1, 0]


def test_own_model_without_lower_levels_stops_where_it_ends(model: str, tmp_path: Path) -> None:
    top = model.split(",")[-1]
    assert main(model=top, name=str(tmp_path / "run"), **{**RUN, "hop_fraction": 0.5}) == 0
    assert sorted(p.name for p in (tmp_path / "run").glob("level_*")) == ["level_2"]
    assert data(tmp_path / "run", 2)["zs"][2].shape == (1, 36)


# ---------------------------------------------------------------------------------------------------------- the modes


def test_primed_from_a_stereo_mp3_at_48_khz(model: str, tmp_path: Path) -> None:
    t = np.arange(48000 * 2) / 48000
    stereo = 0.5 * np.stack([np.sin(2 * np.pi * 110 * t), np.sin(2 * np.pi * 220 * t)], axis=1)
    write_audio(tmp_path / "a.mp3", stereo, 48000)
    write_audio(tmp_path / "b.wav", 0.3 * stereo[:, :1], 48000)
    files = f"{tmp_path / 'a.mp3'},{tmp_path / 'b.wav'}"
    given = dict(mode="primed", audio_file=files, prompt_length_in_seconds=1.3, n_samples=3)
    assert main(model=model, name=str(tmp_path / "run"), **RUN, **given) == 0
    zs = tokens(tmp_path / "run")
    assert [z.shape for z in zs] == [(3, TOTAL // per_code) for per_code in SAMPLES_PER_CODE]

    vqvae = find_model(model).vqvae(TOTAL, "cpu")
    for i, name in enumerate(["a.mp3", "b.wav", "a.mp3"]):
        audio = load_audio(tmp_path / name, SR, duration=320, channels=1)[0]  # 1.3 s cut to 20 tokens
        codes = vqvae.encode(torch.from_numpy(audio).view(1, -1, 1))
        for level, per_code in enumerate(SAMPLES_PER_CODE):
            assert torch.equal(zs[level][i, : 320 // per_code], codes[level][0])
    assert not torch.equal(zs[2][0], zs[2][2])  # the same prompt, another song
    page = (tmp_path / "run" / "level_0" / "index.html").read_text(encoding="utf-8")
    assert page.count(f'<line x1="{320 / TOTAL:.3%}"') == 3  # its end on the waveforms


def test_short_prompt_is_filled_up_in_front(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "short.wav", np.full(125, 0.5), SR)
    given = dict(mode="primed", audio_file=str(tmp_path / "short.wav"), prompt_length_in_seconds=1.28)
    assert main(model=model, name=str(tmp_path / "run"), **RUN, **given) == 0
    assert "is 0.50 s long: 0.78 s of silence were put in front" in capsys.readouterr().err
    audio = torch.cat([torch.zeros(195), torch.full((125,), 0.5)]).view(1, -1, 1)
    codes = find_model(model).vqvae(TOTAL, "cpu").encode(audio)
    assert torch.equal(tokens(tmp_path / "run")[2][:, :20], codes[2])


@pytest.mark.parametrize("level", [2, 0])
def test_continue(finished: Path, model: str, tmp_path: Path, level: int) -> None:
    codes_file = str(finished / f"level_{level}" / "data.pth.tar")
    longer = {**RUN, "sample_length_in_seconds": 2.56, "mode": "continue", "codes_file": codes_file}
    assert main(model=model, name=str(tmp_path / "run"), **longer) == 0
    zs, before = tokens(tmp_path / "run"), data(finished, level)["zs"]
    assert [z.shape for z in zs] == [
        (3, 640 // per_code) for per_code in SAMPLES_PER_CODE
    ]  # as many songs as the file holds
    for i in range(3):
        assert torch.equal(zs[i][:, : before[i].shape[1]], before[i])


def test_continue_from_a_part_says_the_same_again(finished: Path, model: str, tmp_path: Path) -> None:
    """Draws belong to positions: a song that is cut off and continued with its seed becomes the same song."""
    given = dict(mode="continue", codes_file=str(finished / "level_0" / "data.pth.tar"), prompt_length_in_seconds=2.05)
    assert main(model=model, name=str(tmp_path / "run"), **RUN, **given) == 0
    assert_same(tokens(tmp_path / "run")[2:], tokens(finished)[2:])
    cut = 512 // SAMPLES_PER_CODE[1]
    assert torch.equal(tokens(tmp_path / "run")[1][:, :cut], tokens(finished)[1][:, :cut])


def test_upsample_makes_the_lower_levels_as_the_whole_run_did(finished: Path, model: str, tmp_path: Path) -> None:
    given = dict(mode="upsample", codes_file=str(finished / "level_2" / "data.pth.tar"), seed=7)
    up = ",".join(model.split(",")[:2])  # the top prior is not needed
    hops = dict(hop_fraction=RUN["hop_fraction"])
    assert main(model=up, name=str(tmp_path / "run"), **given, **hops) == 0
    assert_same(tokens(tmp_path / "run"), tokens(finished))
    assert sorted(p.name for p in (tmp_path / "run").glob("level_*")) == ["level_0", "level_1"]
    with_top = tmp_path / "with_top"
    assert main(model=model, name=str(with_top), **given, **hops) == 0
    assert (with_top / "level_0" / "item_0" / "align.json").read_bytes() == (
        finished / "level_0" / "item_0" / "align.json"
    ).read_bytes()


# ------------------------------------------------------------------------------------------------- nothing is lost


@pytest.mark.faults("a killed run resumes as if undisturbed", "sampling: gone before and after each state")
def test_killed_at_any_window_and_resumed(
    finished: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is gone right after, or right before, some state was written; every window is tried over the runs."""
    save = RunState.save
    left = {"windows": 0}

    def dies(self: RunState) -> None:
        left["windows"] -= 1
        if left["windows"] == 0:
            raise SystemExit("killed before the state was written")
        save(self)

    monkeypatch.setattr(RunState, "save", dies)
    folder, resume, deaths = tmp_path / "run", False, 0
    while True:
        left["windows"] = 2 + deaths % 3
        try:
            assert main(model=model, name=str(folder), n_samples=3, resume=resume, **RUN) == 0
            break
        except SystemExit:
            deaths, resume = deaths + 1, True
    assert deaths >= 5
    assert_same(tokens(folder), tokens(finished))


def test_killed_between_the_files_of_a_level(
    finished: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    for name in ("save_torch", "save_html"):

        def dies(*_: Any, **__: Any) -> None:
            raise SystemExit

        with monkeypatch.context() as patch:
            patch.setattr(levels_module, name, dies)
            with pytest.raises(SystemExit):
                main(model=model, name=str(folder), n_samples=3, resume=folder.exists(), **RUN)
    assert main(model=model, name=str(folder), n_samples=3, resume=True, **RUN) == 0
    assert_same(tokens(folder), tokens(finished))


def command(model: str, folder: Path, *more: str) -> list[str]:
    flags = [f"--model={model}", f"--name={folder}", "--n_samples=3", *more]
    flags += [f"--{key}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in RUN.items()]
    return [sys.executable, str(ROOT / "jukebox" / "sample.py"), *flags]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not list(folder.glob(pattern)) and process.poll() is None:
        assert time.monotonic() < deadline, f"{pattern} did not appear"
        time.sleep(0.01)


def assert_readable(folder: Path) -> None:
    """Every file that a run made known is whole."""
    for file in folder.rglob("*"):
        if file.name.endswith(".pth.tar"):
            torch.load(file, weights_only=True)
        elif file.suffix == ".wav":
            assert load_audio(file, SR, channels=1)[0].shape == (1, TOTAL)
        elif file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".html":
            assert file.read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.mark.faults("a killed run resumes as if undisturbed", "sampling: SIGKILL at a random moment")
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is not of Windows")
@pytest.mark.parametrize("number", range(KILLED))
def test_sigkill_at_random_moments(
    number: int, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Tried
) -> None:
    """A run over three levels is killed again and again while it works, and ends as an undisturbed one.

    Processes are forked from one that has all modules, so that a life takes half a second, not the time of importing.
    Kill i falls into the i-th part of the way from the first token of level 2 to the last of level 0, levels counted
    alike: a life must save at least one window, come as far as that, and dies within the time of another.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(lives.PRELOAD)
    folder, rng = tmp_path / "run", random.Random(number)
    flags = {**RUN, "model": model, "hop_fraction": (0.125, 0.125, 0.125), "n_samples": 2, "resume": True}
    deaths: list[int] = []  # the level that was at work
    windows = [0.03] * 3  # seconds between saves
    for i in range(KILLS):
        place = 3 * (i + rng.random()) / KILLS
        level, share = 2 - int(place), min(0.9, place % 1)
        here, there = context.Pipe()
        process = context.Process(target=lives.sample, args=({**flags, "name": str(folder)}, there))
        with tried.one():
            process.start()
            began, saves = time.monotonic(), 0
            while True:
                assert here.poll(120), "no progress"
                here.recv()
                saves += 1
                if saves > 1:
                    windows.append(time.monotonic() - began)
                found = RunState.load(folder)
                began = time.monotonic()
                here.send(None)
                if level in found.done or found.zs[level].shape[1] >= share * (TOTAL // SAMPLES_PER_CODE[level]):
                    break
            time.sleep(rng.random() * float(np.median(windows)))
            process.kill()
            process.join()
        assert process.exitcode == -signal.SIGKILL and saves
        assert_readable(folder)
        deaths.append(max({0, 1, 2} - set(RunState.load(folder).done)))
    assert set(deaths) == {0, 1, 2} and deaths == sorted(deaths, reverse=True)
    process = context.Process(target=main, kwargs={**flags, "name": str(folder)})
    process.start()
    process.join()
    assert RunState.load(folder).finished and not list(folder.rglob("*.tmp"))
    assert_readable(folder)
    assert main(**{**flags, "name": str(tmp_path / "undisturbed"), "resume": False}) == 0
    assert_same(tokens(folder), tokens(tmp_path / "undisturbed"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_says_how_to_go_on(finished: Path, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(command(model, folder), env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for(folder, "level_2/index.html", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"stopped: {folder} holds everything up to the last finished window. To resume: python " in errors
    assert errors.rstrip().endswith("--resume")
    assert main(model=model, name=str(folder), n_samples=3, resume=True, **RUN) == 0
    assert_same(tokens(folder), tokens(finished))


def test_an_interrupted_run_is_not_overwritten_by_mistake(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "run")
    interrupted(monkeypatch, model=model, name=folder, **RUN)
    with pytest.raises(UserError, match="holds this run, interrupted: add --resume"):
        main(model=model, name=folder, **RUN)
    with pytest.raises(UserError, match="was started with temp=.0.99.*not .0.5"):
        main(model=model, name=folder, temp=0.5, resume=True, **RUN)
    with pytest.raises(UserError, match="started with seed=7, not 8"):
        main(model=model, name=folder, resume=True, **{**RUN, "seed": 8})
    capsys.readouterr()
    assert main(model=model, name=folder, resume=True, dry_run=True, **RUN) == 0
    rows = [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    assert ["2", "1", "4", "28"] in rows  # what is left of level 2
    assert main(model=model, name=folder, resume=True, **RUN) == 0
    capsys.readouterr()
    assert main(model=model, name=folder, resume=True, **RUN) == 0
    assert "nothing is left to do" in capsys.readouterr().out


def interrupted(monkeypatch: pytest.MonkeyPatch, **flags: Any) -> None:
    """Starts a run and stops it in the second window of the top level."""

    def interrupt(self: Bars, tokens: int) -> None:
        if self._window == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bars, "advance", interrupt)
        assert main(**flags) == 130


def test_an_interrupted_run_of_other_settings_is_not_lost(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    interrupted(monkeypatch, model=model, name=str(folder), **RUN)
    before = (folder / "state.pth.tar").read_bytes()
    other = {**RUN, "seed": 8}
    with pytest.raises(UserError, match="holds an interrupted run, with seed=7, not 8: .* --resume .* or delete it"):
        main(model=model, name=str(folder), **other)
    capsys.readouterr()
    assert main(model=model, name=str(folder), dry_run=True, **other) == 0
    assert "would be refused: " in capsys.readouterr().out
    assert (folder / "state.pth.tar").read_bytes() == before
    (folder / "state.pth.tar").write_bytes(before[:100])
    with pytest.raises(UserError, match="state.pth.tar is damaged, the run cannot be resumed: choose another"):
        main(model=model, name=str(folder), **other)


def test_other_weights_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_runs(tmp_path / "tiny")
    flags = dict(model=model, name=str(tmp_path / "run"), **RUN)
    interrupted(monkeypatch, **flags)
    path = tmp_path / "tiny" / "logs" / "up1" / "checkpoint_latest.pth.tar"
    checkpoint = torch.load(path, weights_only=True)
    next(iter(checkpoint["model"].values())).view(-1)[0] += 1
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="was started with weights_of_level_1='.* bytes, .*', not "):
        main(**flags, resume=True)


def test_a_copied_checkpoint_counts_as_the_same(model: str, tmp_path: Path) -> None:
    path = Path(model.split(",")[0]) / "checkpoint_latest.pth.tar"
    (tmp_path / "copy").write_bytes(path.read_bytes())
    assert weights_mark(str(tmp_path / "copy")) == weights_mark(str(path))
    (tmp_path / "copy").write_bytes(path.read_bytes() + b"x")
    assert weights_mark(str(tmp_path / "copy")) != weights_mark(str(path))
    assert weights_mark("https://a.b/c") == "https://a.b/c"


def test_finished_songs_are_not_lost(finished: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (finished.parent / f"{finished.name}_2").mkdir()
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    offer = f"add --overwrite to replace it, or choose another --name, such as --name={finished}_3"
    flags = dict(model=model, name=str(finished), n_samples=3)
    with pytest.raises(UserError, match=f"holds this run, finished: {offer}$"):
        main(**flags, **RUN)
    with pytest.raises(UserError, match=f"holds a finished run, with seed=7, not 8: {offer}$"):
        main(**flags, **{**RUN, "seed": 8})
    assert main(**flags, dry_run=True, **RUN) == 0
    assert "would be refused: " in capsys.readouterr().out
    state = (finished / "state.pth.tar").read_bytes()
    (finished / "state.pth.tar").unlink()  # songs that another program made
    for resume in (False, True):
        with pytest.raises(UserError, match=f"holds songs already, such as .*level_0/data.pth.tar: {offer}$"):
            main(**flags, resume=resume, **RUN)
    (finished / "state.pth.tar").write_bytes(state)
    names = {path.name for path in before} - {finished.joinpath("state.pth.tar").name, "level_0"}
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.name in names)


def test_a_new_run_leaves_nothing_of_an_earlier_one(finished: Path, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    mine = [folder / "notes.txt", folder / "level_0" / "mine.wav", folder / "level_9" / "item_x"]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    other = dict(model=model, name=str(folder), n_samples=1, format="flac", overwrite=True, **{**RUN, "seed": 8})
    with pytest.raises(UserError, match="--resume keeps .* and --overwrite deletes"):
        main(**other, resume=True)
    assert main(**other) == 0
    assert all(file.read_text() == "mine" for file in mine)
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("item_*") if p not in mine}
    assert found == {f"level_{level}/{name}" for level in range(3) for name in ("item_0.flac", "item_0.json", "item_0")}
    assert {p.name for p in folder.glob("level_2/item_0/*")} >= {"audio.flac", "align.json"}
    # A level that the new run reads from is not touched.
    up = dict(mode="upsample", codes_file=str(folder / "level_2"), hop_fraction=RUN["hop_fraction"])
    assert main(model=model, name=str(folder), overwrite=True, **up) == 0
    assert (folder / "level_2" / "item_0.flac").exists() and not (folder / "level_0" / "item_0.flac").exists()


@pytest.mark.parametrize("name", ["file", "file/x", "n" * 300, "/dev/null", "/proc/nope"])
@pytest.mark.skipif(sys.platform == "win32", reason="names of POSIX")
def test_a_bad_name_is_refused_before_anything_is_loaded(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Model, "vqvae", loaded)
    Path("file").write_text("")
    for more in (dict(), dict(dry_run=True)):
        with pytest.raises(UserError, match=r"^--name=.*: cannot write there \(.*\); give a folder that can be made"):
            main(model=model, name=name, **RUN, **more)
    assert os.listdir() == ["file"]


def test_two_runs_in_one_folder(model: str, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    folder = tmp_path / "run"
    folder.mkdir()
    with only_writer(folder, "name"):
        with pytest.raises(UserError, match="another process is writing to this folder; wait until it has ended"):
            main(model=model, name=str(folder), **RUN)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("where", ["load", "decode", "align", "vqvae"])
def test_out_of_memory_is_said_and_gone_on_from(
    finished: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    vqvae = Model.vqvae

    def full(*given: Any, **_: Any) -> Any:
        if given[-1] == "meta":  # a plan has room
            return vqvae(*given)
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")

    flags = dict(model=model, name=str(tmp_path / "run"), n_samples=3, **RUN)
    owner: Any = {"load": LazyPrior, "decode": LazyPrior, "align": levels_module, "vqvae": Model}[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, "get_alignment" if where == "align" else where, full)
        with pytest.raises(UserError, match="^out of memory while .*: .* more memory") as caught:
            main(**flags)
    assert "\n" not in str(caught.value)
    assert ("continue with --resume" in str(caught.value)) == (where != "vqvae")
    assert main(**flags, resume=True) == 0
    assert_same(tokens(tmp_path / "run"), tokens(finished))


def test_the_prior_has_gone_when_its_codes_are_decoded(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    alive: list[weakref.ref[Any]] = []
    load, decode = LazyPrior.load, LazyPrior.decode

    def loading(self: LazyPrior) -> Any:
        prior = load(self)
        alive.append(weakref.ref(prior))
        return prior

    def decoding(self: LazyPrior, *given: Any, **more: Any) -> Any:
        gc.collect()
        assert alive and all(ref() is None for ref in alive)
        return decode(self, *given, **more)

    monkeypatch.setattr(LazyPrior, "load", loading)
    monkeypatch.setattr(LazyPrior, "decode", decoding)
    assert main(model=model, name=str(tmp_path / "run"), **{**RUN, "sample_length_in_seconds": 1.1}) == 0
    assert len(alive) == 3


@pytest.mark.faults("a file is whole or as it was before", "sampling on a full disk, and resumed")
def test_a_full_disk_leaves_the_last_good_state(
    finished: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, writes = tmp_path / "run", {"n": 0}
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        writes["n"] += 1
        if writes["n"] == 10:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(
            UserError, match="no space left to write .*: .*is complete; once this is fixed, resume with: .* --resume$"
        ):
            main(model=model, name=str(folder), n_samples=3, **RUN)
    assert sum(z.shape[1] for z in RunState.load(folder).zs) > 0
    assert main(model=model, name=str(folder), n_samples=3, resume=True, **RUN) == 0
    assert_same(tokens(folder), tokens(finished))


# ------------------------------------------------------------------------------------------------- several processes


def test_one_page_joins_the_folders_of_all_processes(model: str, tmp_path: Path) -> None:
    flags = {"name": str(tmp_path / "my songs"), **RUN, "n_samples": 5}
    page = join_folders(read_settings(flags, find_model(model)), 2)
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "my songs" / "index.html"
    level = "../my%20songs_rank_{}/level_0/"
    for song, (rank, item) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]):
        part = text.partition(f'id="item_{song}"')[2].partition("</section>")[0]
        assert f"Song {song}<" in part and f'src="{level.format(rank)}item_{item}/audio.wav"' in part
        assert f'href="{level.format(rank)}index.html"' in part
    assert text.count("<audio ") == 5


@pytest.mark.slow
@pytest.mark.skipif(not Path(sys.executable).with_name("mpiexec").exists(), reason="needs the mpich package")
def test_two_ranks_make_the_songs_of_one(finished: Path, model: str, tmp_path: Path) -> None:
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2"]
    words = [*launcher, *command(model, tmp_path / "run", f"--port={free_port()}")]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "run" / "index.html").read_text(encoding="utf-8")
    songs = re.findall(r'<audio [^>]*src="([^"]+)"', page)
    assert len(songs) == 3 and all((tmp_path / "run" / song).is_file() for song in songs)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["index.html"]
    assert f"to listen, open {tmp_path / 'run' / 'index.html'}\n" in done.stdout
    first, second = tokens(tmp_path / "run_rank_0"), tokens(tmp_path / "run_rank_1")
    assert [z.shape[0] for z in (first[0], second[0])] == [1, 2]
    assert_same([torch.cat(pair) for pair in zip(first, second, strict=True)], tokens(finished))
    assert done.stderr.count("level 0, window") and "rank_1" not in done.stdout


@pytest.mark.faults("a job ends with its cause, or continues", "sampling under mpiexec: SIGKILL of a rank")
@pytest.mark.slow
@pytest.mark.skipif(
    not Path(sys.executable).with_name("mpiexec").exists() or not Path("/proc").is_dir(),
    reason="needs the mpich package and /proc",
)
def test_the_others_stop_when_a_rank_dies(model: str, tmp_path: Path) -> None:
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2"]
    words = [*launcher, *command(model, tmp_path / "run", f"--port={free_port()}"), "--sample_length_in_seconds=30"]
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL, text=True)
    wait_for(tmp_path, "run_rank_1/state.pth.tar", process)
    wait_for(tmp_path, "run_rank_0/state.pth.tar", process)
    victims = [pid for pid, rank in processes_of(tmp_path / "run") if rank == "1"]
    assert len(victims) == 1
    os.kill(victims[0], signal.SIGKILL)
    assert process.wait(timeout=30) != 0


def processes_of(folder: Path) -> list[tuple[int, str]]:
    """(process, rank) of the Python processes that write to a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"python" in words[0] and f"--name={folder}".encode() in words:
            ranks = [v[9:].decode() for v in variables if v.startswith(b"PMI_RANK=")]
            found += [(int(entry.name), rank) for rank in ranks]
    return found


def test_fewer_songs_than_processes_is_refused(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(UserError, match="--n_samples=3 cannot be split over 4 processes: use --n_samples=4 or more"):
        main(model=model, name=str(tmp_path / "run"), n_samples=3, **RUN)


# -------------------------------------------------------------------------------------------------------- the script


def test_help_lists_every_flag_at_once() -> None:
    words = [sys.executable, "-X", "importtime", str(ROOT / "jukebox" / "sample.py"), "--help"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0
    for flag in FLAGS:
        assert f"--{flag.name}=" in done.stdout and flag.help.split()[0] in done.stdout
    assert "| torch\n" not in done.stderr and " numpy\n" not in done.stderr


def test_wrong_flags_end_with_one_line(model: str, tmp_path: Path) -> None:
    def failing(*flags: str) -> str:
        words = [sys.executable, str(ROOT / "jukebox" / "sample.py"), *flags]
        done = subprocess.run(words, capture_output=True, text=True, env=environment())
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    assert "did you mean --sample_length_in_seconds" in failing("--sample_lenght_in_seconds=3")
    assert "--mode=remix: choose ancestral" in failing(f"--model={model}", f"--name={tmp_path / 'x'}", "--mode=remix")
    assert not (tmp_path / "x").exists()


def test_lists_of_names(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(model=model, list_artists=True) == 0
    assert capsys.readouterr().out.split("\n")[:2] == ["somebody", "the examples"]
    assert main(model=model, list_genres="olk") == 0
    assert capsys.readouterr().out == "polka\n"
    for text in ("0", ""):
        names = [name for name in ("somebody", "the examples") if text in name]
        if names:
            assert main(model=model, list_artists=text) == 0
            assert capsys.readouterr().out.split() == " ".join(names).split()
            continue
        with pytest.raises(UserError, match="--list_artists=0: no name has that in it"):
            main(model=model, list_artists=text)
    with pytest.raises(UserError, match="--list_artists=xyz: no name has that in it; nearest"):
        main(model=model, list_artists="xyz")


def test_unknown_names_are_told_with_the_nearest(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = {**RUN, "sample_length_in_seconds": 1.1}
    asked = dict(model=model, name=str(tmp_path / "run"), artist="The Exmaples", genre="waltz", **short)
    with pytest.raises(UserError, match="'The Exmaples' is not known .* the examples.* --unknown_labels=ok"):
        main(**asked)
    assert not list(tmp_path.rglob("*.wav"))
    assert main(**asked, unknown_labels="ok") == 0
    said = capsys.readouterr().out
    assert said.count("artist 'The Exmaples' is not known to the model; nearest: the examples") == 1
    assert "genre" not in said


def test_names_that_need_not_be_known(model: str, tmp_path: Path) -> None:
    """Unknown itself, names left out, and those of a song that is continued."""
    found = find_model(model)
    for flags in ({}, {"artist": "unknown", "genre": ""}, {"genre": "waltz"}, {"artist": "x", "unknown_labels": "ok"}):
        found.check_names(read_settings({"name": "x", **RUN, **flags}, found).must_know)
    metas = tmp_path / "metas.json"
    metas.write_text('[{"artist": "somebody"}, {"genre": "wlatz"}]', encoding="utf-8")
    with pytest.raises(UserError, match="genre 'wlatz' is not known"):
        found.check_names(read_settings({"name": "x", **RUN, "metas": str(metas)}, found).must_know)


def test_absurd_numbers_of_songs_are_refused_at_once(model: str) -> None:
    with pytest.raises(UserError, match="--n_samples=1000000: a run makes at most 10,000 songs"):
        read_settings({"name": "x", **RUN, "n_samples": 1_000_000}, find_model(model))


def test_fp16_on_a_cpu_is_answered_with_bf16(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = {**RUN, "sample_length_in_seconds": 1.1, "device": "cpu"}
    for dtype, told in (("fp16", 1), ("bf16", 0)):
        assert main(model=model, name=str(tmp_path / dtype), dtype=dtype, **short) == 0
        assert capsys.readouterr().out.count("use --dtype=bf16") == told


def test_an_unknown_model_comes_with_the_nearest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_runs(tmp_path)
    monkeypatch.chdir(tmp_path)
    for asked in ("logs/topp", "topp", "logs/topp,logs/up0"):
        with pytest.raises(UserError, match="did you mean .*logs/top"):
            find_model(asked)


# ------------------------------------------------------------------------------------------- the importable functions


def test_modes_take_priors_that_are_modules(finished: Path, model: str, tmp_path: Path) -> None:
    """As a notebook does it: all priors loaded, labels by their labellers, options without a seed."""
    found = find_model(model)
    vqvae = found.vqvae(TOTAL, "cpu")
    lazy = [found.prior(level, vqvae, torch.device("cpu")) for level in range(3)]
    priors = [prior.load() for prior in lazy if prior is not None]
    saved = data(finished, 0)
    hps = Hyperparams(
        name=str(tmp_path / "run"), n_samples=3, sr=SR, levels=3, sample_length=TOTAL, hop_fraction=[1.0, 1.0, 0.5]
    )
    kwargs = [dict(temp=0.99, fp16=False, chunk_size=None, max_batch_size=2, seed=7) for _ in priors]
    zs = ancestral_sample(saved["labels"], kwargs, priors, hps)
    assert_same(zs, saved["zs"])
    again = ancestral_sample([torch.zeros(3, 0, dtype=torch.long)] * 3, saved["labels"], kwargs, priors, hps)
    assert_same(again, zs)
    only_top = _sample(
        [torch.zeros(3, 0, dtype=torch.long)] * 3, saved["labels"], kwargs, [None, None, priors[2]], [2], hps
    )
    assert torch.equal(only_top[2], zs[2]) and only_top[0].shape == (3, 0)
