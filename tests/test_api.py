"""`jukebox.load` and what it gives: the songs of the commands, errors in the words of Python, nothing on the disk."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from readme_commands import README, ROOT, fenced
from tiny_models import SAMPLES_PER_CODE, SR, make_tiny_runs

import jukebox
from jukebox import loaders, reconstruct, represent, sample
from jukebox.api import MusicModel
from jukebox.loaders import KeptPrior
from jukebox.music import Songs
from jukebox.utils.audio.read import load_audio, probe_audio
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch
from jukebox.utils.python_words import in_python

SECONDS, TOTAL = 2.304, 576  # two windows of the top level
COMMAND = dict(sample_length_in_seconds=SECONDS, device="cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_runs(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(runs: str) -> MusicModel:
    return jukebox.load(runs, device="cpu")


@pytest.fixture(scope="module")
def songs(model: MusicModel) -> Songs:
    return model.sample(lyrics="la la la", artist="somebody", genre="polka", seconds=SECONDS, n=2, seed=3)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; Python warns of nothing there."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield tmp_path


def by_command(runs: str, folder: Path, **flags: Any) -> dict[str, Any]:
    """What level 0 of `sample.py` leaves in its data.pth.tar."""
    assert sample.main(model=runs, name=str(folder), **{**COMMAND, **flags}) == 0
    return load_torch(folder / "level_0" / "data.pth.tar")


def assert_same(songs: Songs, data: dict[str, Any]) -> None:
    assert len(songs) == len(data["x"])
    for i, song in enumerate(songs):
        for level, (mine, theirs) in enumerate(zip(song.codes, data["zs"], strict=True)):
            assert np.array_equal(mine, theirs[i].numpy()), f"level {level} of song {i}"
        assert np.array_equal(song.audio, data["x"][i, :, 0].numpy())
        if data["alignments"] is not None:
            assert song.alignment is not None and np.array_equal(song.alignment, data["alignments"][i].numpy())


# ------------------------------------------------------------------------------------------------- the three lines


def readme_code() -> str:
    (found,) = [text for kind, text in fenced(README) if kind == "python" and "jukebox.load" in text]
    return found


def test_the_lines_of_the_readme(elsewhere: Path) -> None:
    names: dict[str, Any] = {}
    exec(readme_code(), names)
    songs = names["songs"]
    assert [song.audio.shape for song in songs] == [(110208,)] * 2 and songs[0].sr == 11025
    assert songs[0].labels["artist"] == "anna bell" and songs[0].labels["lyrics"] == "mila sola"
    assert probe_audio("song.mp3")[0] == pytest.approx(10.0, abs=0.2) and probe_audio("song.mp3")[1]["genre"] == "disco"
    assert {"index.html", "item_0.wav", "item_1.wav", "data.pth.tar"} <= set(os.listdir("out"))
    assert sorted(os.listdir(".")) == ["out", "song.mp3"]


def test_types_of_the_readme_are_strict(tmp_path: Path) -> None:
    """A user's own file, with the package installed as a user has it: mypy reads its types by its `py.typed`."""
    checks = """
audio: np.ndarray[Any, Any] = songs[0].audio
last: jukebox.Songs = songs[1:]
features: np.ndarray[Any, Any] = model.represent("song.mp3", layers=2)
model.sample(secnds=10)
jukebox.laod("demo")
"""
    imports = "from typing import Any\n\nimport numpy as np\n"
    (tmp_path / "mine.py").write_text(imports + readme_code() + checks, encoding="utf-8")
    leave = shutil.ignore_patterns("__pycache__", "demo")
    shutil.copytree(ROOT / "jukebox", tmp_path / "site" / "jukebox", ignore=leave)
    words = ["--strict", "--follow-imports=silent", f"--config-file={os.devnull}", f"--cache-dir={tmp_path}/cache"]
    environment = {**os.environ, "MYPYPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "mypy", *words, "mine.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    wrong = [line.partition("error: ")[2] for line in done.stdout.splitlines() if "error: " in line]
    assert len(wrong) == 2, done.stdout + done.stderr
    assert wrong[0].startswith('Unexpected keyword argument "secnds"')
    assert wrong[1].startswith('Module has no attribute "laod"')


def test_import_takes_no_torch() -> None:
    code = "import sys, jukebox; assert 'torch' not in sys.modules; jukebox.load; assert 'torch' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ------------------------------------------------------------------------------------------------- as the commands


def test_songs_are_those_of_the_command(songs: Songs, runs: str, tmp_path: Path) -> None:
    words = dict(lyrics="la la la", artist="somebody", genre="polka")
    assert_same(songs, by_command(runs, tmp_path / "run", n_samples=2, seed=3, **words))
    song = songs[1]
    assert song.audio.dtype == np.float32 and song.audio.shape == (TOTAL,) and song.sr == SR
    assert [z.shape for z in song.codes] == [(TOTAL // per_code,) for per_code in SAMPLES_PER_CODE]
    assert song.alignment is not None and song.alignment.shape == (TOTAL // SAMPLES_PER_CODE[-1], len("la la la"))
    assert {key: song.labels[key] for key in words} == words
    assert not os.listdir(".")


@pytest.mark.parametrize(
    ("python", "command"),
    [
        (dict(temp=0.5, top_k=[3, 4, 5]), dict(temp=0.5, top_k=(3, 4, 5))),
        (dict(top_p=0.7, hop_fraction=(1, 1, 0.25)), dict(top_p=0.7, hop_fraction=(1, 1, 0.25))),
        (dict(n=3, max_batch_size=2, chunk_size=5), dict(n_samples=3, max_batch_size=2, chunk_size=5)),
        (dict(total_seconds=30, seed=9), dict(total_sample_length_in_seconds=30, seed=9)),
    ],
)
def test_parameters_are_flags(
    python: dict[str, Any], command: dict[str, Any], model: MusicModel, runs: str, tmp_path: Path
) -> None:
    assert_same(model.sample(seconds=SECONDS, **python), by_command(runs, tmp_path / "run", **command))


def test_labels_per_song(model: MusicModel, runs: str, tmp_path: Path) -> None:
    metas = [dict(artist="somebody", lyrics="la"), dict(artist="the examples", lyrics="di da")]
    (tmp_path / "metas.json").write_text(str(metas).replace("'", '"'))
    data = by_command(runs, tmp_path / "run", metas=str(tmp_path / "metas.json"), genre="waltz")
    assert_same(model.sample(["la", "di da"], ["somebody", "the examples"], "waltz", SECONDS), data)
    assert_same(model.sample(metas=metas, genre="waltz", seconds=SECONDS), data)
    assert_same(
        model.sample(["la", "di da"], metas=[{"artist": m["artist"]} for m in metas], genre="waltz", seconds=SECONDS),
        data,
    )


@pytest.mark.parametrize("kind", ["file", "array", "stereo"])
def test_prompts(kind: str, songs: Songs, model: MusicModel, runs: str, tmp_path: Path) -> None:
    files = [str(tmp_path / f"{i}.wav") for i in range(2)]
    for file, song in zip(files, songs, strict=True):
        write_audio(file, song.audio, song.sr)
    data = by_command(
        runs, tmp_path / "run", mode="primed", audio_file=",".join(files), prompt_length_in_seconds=1.1, seed=5
    )
    sounds = [load_audio(file, SR, channels=1)[0][0] for file in files]
    prompt: Any = {
        "file": [files[0], Path(files[1])],
        "array": [sounds[0], torch.from_numpy(sounds[1])],
        "stereo": [np.stack([2 * sound, 0 * sound], axis=1) for sound in sounds],
    }[kind]
    assert_same(model.sample(seconds=SECONDS, prompt=prompt, prompt_seconds=1.1, seed=5), data)
    one = model.sample(seconds=SECONDS, prompt=prompt[0], prompt_seconds=1.1, seed=5)
    assert np.array_equal(one[0].codes[0], songs_codes(data, 0))


def test_samples_per_code_keep_their_earlier_name(model: MusicModel) -> None:
    assert model.samples_per_code == SAMPLES_PER_CODE == model.hops


def songs_codes(data: dict[str, Any], song: int) -> np.ndarray:
    return data["zs"][0][song].numpy()


def test_a_short_prompt_is_told(model: MusicModel) -> None:
    with pytest.warns(UserWarning, match="s of silence were put in front"):
        model.sample(seconds=1.6, prompt=np.zeros(100, dtype=np.float32), prompt_seconds=1.1)


def test_continue(songs: Songs, model: MusicModel, runs: str, tmp_path: Path) -> None:
    songs.save_page(tmp_path / "saved")
    run = dict(mode="continue", codes_file=str(tmp_path / "saved"), sample_length_in_seconds=3.0)
    data = by_command(runs, tmp_path / "run", **run, seed=4)
    for given in (songs, tmp_path / "saved" / "data.pth.tar"):
        longer = model.sample(seconds=3.0, continue_from=given, seed=4)
        assert_same(longer, data)
        assert longer[0].labels["artist"] == "somebody"  # of the songs that are continued
    codes = [np.stack([song.codes[level] for song in songs]) for level in range(3)]
    words = dict(lyrics="la la la", artist="somebody", genre="polka")
    assert_same(model.sample(seconds=3.0, continue_from=codes, seed=4, **words), data)
    part = model.sample(seconds=3.0, continue_from=songs[1], prompt_seconds=1.0)
    assert len(part) == 1 and np.array_equal(part[0].codes[2][:15], songs[1].codes[2][:15])
    assert not np.array_equal(part[0].codes[2][:36], songs[1].codes[2])


def test_a_sketch_is_finished(songs: Songs, model: MusicModel) -> None:
    words = dict(lyrics="la la la", artist="somebody", genre="polka")
    sketch = model.sample(seconds=SECONDS, n=2, seed=3, lowest_level=2, **words)
    assert [len(z) for z in sketch[0].codes] == [0, 0, 36] and sketch[0].audio.shape == (TOTAL,)
    for given in (sketch, songs):
        finished = model.upsample(given, seed=3)
        for one, other in zip(finished, songs, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one.codes, other.codes, strict=True))
    assert finished[0].alignment is not None


def test_reconstruct(songs: Songs, model: MusicModel, runs: str, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", songs[0].audio, SR)
    flags = {flag.name: flag.default for flag in reconstruct.FLAGS}
    given = dict(model=runs, audio_file=str(tmp_path / "a.wav"), name=str(tmp_path / "out"), levels=(0, 2), offset=0.5)
    assert reconstruct.main(**{**flags, **given, "seconds": 1.0}) == 0
    found = model.reconstruct(tmp_path / "a.wav", levels=[2, 0], offset=0.5, seconds=1.0)
    assert [one.level for one in found] == [0, 2]
    for one in found:
        theirs = load_audio(tmp_path / "out" / "item_0" / f"level_{one.level}.wav", SR, channels=1)[0][0]
        assert one.audio.shape == (SR,) and np.allclose(one.audio.clip(-1, 1), theirs, atol=2**-14)
        assert one.codes.shape == (-(-SR // SAMPLES_PER_CODE[one.level]),) and one.figures["level"] == one.level
    sound = load_audio(tmp_path / "a.wav", SR, channels=1)[0][0]
    again = model.reconstruct(sound, levels=0, offset=0.5, seconds=1.0)
    assert np.array_equal(again[0].audio, found[0].audio)


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_represent(pool: str, songs: Songs, model: MusicModel, runs: str, tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "a.wav", songs[0].audio, SR)
    flags = {flag.name: flag.default for flag in represent.FLAGS}
    given = dict(model=runs, audio_files_dir=str(tmp_path / "in"), out=str(tmp_path / "out"), layers=(1, 3), pool=pool)
    assert represent.main(**{**flags, **given, "artist": "somebody", "device": "cpu"}) == 0
    theirs = np.load(tmp_path / "out" / "a.wav.npy")
    mine = model.represent(tmp_path / "in" / "a.wav", layers=[3, 1], pool=pool, artist="somebody")
    assert mine.dtype == np.float32 and np.array_equal(mine, theirs)
    sound = load_audio(tmp_path / "in" / "a.wav", SR, channels=1)[0][0]
    assert np.array_equal(model.represent(sound, layers=(1, 3), pool=pool, artist="somebody", batch_size=1), theirs)


# ------------------------------------------------------------------------------------------------- in words of Python


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (dict(seconds=0), "seconds=0: must be above 0"),
        (dict(seconds="long"), "seconds=long: give a number"),
        (dict(seconds=0.01), "seconds=0.01 is shorter than one token of the top level: use"),
        (dict(seconds=500), "the model's timing ends at 60 s; use"),
        (dict(seconds=3, total_seconds=2), "total_seconds=2 is shorter than the"),
        (dict(n=0), "n=0: must be 1 or more"),
        (dict(temp=0), "temp=0: must be above 0; for the likeliest token every time use top_k=1"),
        (dict(temp=[1, 1]), "temp has 2 values for 3 levels: give one, or one per level, temp=...,...,..."),
        (dict(top_k=3, top_p=0.5), "top_k and top_p exclude each other"),
        (dict(hop_fraction=2), "hop_fraction=2 of level 0: windows would leave gaps"),
        (dict(prompt=np.zeros(500)), "prompt needs prompt_seconds, how much of the audio to begin with"),
        (dict(prompt="no.wav", prompt_seconds=1), "prompt=no.wav: there is no such file"),
        (dict(prompt=np.zeros((2, 3, 4)), prompt_seconds=1), r"the audio has the shape \[2, 3, 4\]: give samples"),
        (dict(prompt=[], prompt_seconds=1), "prompt is empty"),
        (dict(prompt_seconds=1), "prompt_seconds is for"),
        (dict(continue_from="no.pth.tar"), "continue_from=no.pth.tar: there is no such file"),
        (dict(continue_from=[np.zeros((1, 36))] * 3), "continue_from=songs holds codes of type torch.float64"),
        (dict(continue_from=[np.full((1, 36), 99)] * 3), "continue_from=songs holds code 99, model .* knows 0 to 15"),
        (dict(continue_from=[np.zeros((1, 36), int)] * 2), "continue_from=songs holds codes of 2 levels"),
        (dict(prompt=np.zeros(9), continue_from="x"), "prompt and continue_from exclude each other"),
        (dict(lyrics=["a"], artist=["a", "b"]), "lyrics has 1 entries, artist 2"),
        (dict(lyrics=["a", 5]), "lyrics of entry 1 is 5, not text"),
        (dict(metas=[{"artst": "a"}]), "entry 0 has an unknown key 'artst'"),
        (dict(metas=[{"offset_in_seconds": 50}]), "offset_in_seconds of song 0 is 50"),
        (dict(lowest_level=3), "lowest_level=3: must be 2 or less"),
        (dict(max_batch_size=0), "max_batch_size=0: must be 1 or more"),
        (dict(seed=0.5), "seed=0.5: give a whole number"),
    ],
)
def test_refusals(given: dict[str, Any], text: str, model: MusicModel) -> None:
    with pytest.raises(UserError, match=text) as error:
        model.sample(**given)
    assert "--" not in str(error.value) and not os.listdir(".")


def test_refusals_of_others(model: MusicModel, songs: Songs, runs: str) -> None:
    for text, call in {
        "layers=9": lambda: model.represent(songs[0].audio, layers=9),
        "pool='max': choose mean or none": lambda: model.represent(songs[0].audio, layers=1, pool="max"),
        "levels=7: give numbers from 0": lambda: model.reconstruct(songs[0].audio, levels=7),
        "seconds=-1: must be above 0": lambda: model.reconstruct(songs[0].audio, seconds=-1),
        "codes=no.pth.tar: there is no such file": lambda: model.upsample("no.pth.tar"),
        "cannot write song.mp4": lambda: songs[0].save("song.mp4"),
        "unknown model 'dem'; did you mean demo": lambda: jukebox.load("dem"),
        "device='tpu': choose cuda": lambda: jukebox.load(runs, device="tpu"),
        "dtype='fp8': choose": lambda: jukebox.load(runs, dtype="fp8"),
    }.items():
        with pytest.raises(UserError, match=text) as error:
            call()
        assert "--" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "python"),
    [
        ("--sample_length_in_seconds=10 is cut", "seconds=10 is cut"),
        ("use --device=cpu, or --dtype=bf16.", "use device='cpu', or dtype='bf16'."),
        ("--device=cuda:1", "device='cuda:1'"),
        ("--audio_file=/a/b.mp3: there is", "prompt=/a/b.mp3: there is"),
        ("ask for more with --mode=continue", "ask for more with continue_from"),
    ],
)
def test_flags_become_arguments(flags: str, python: str) -> None:
    assert in_python(flags) == python


def test_unknown_names_are_told(model: MusicModel) -> None:
    with pytest.warns(UserWarning, match="nobody at all"):
        model.sample(artist="nobody at all", seconds=1.1)


# ------------------------------------------------------------------------------------------------- what is kept


def test_weights_are_read_once(runs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    load = loaders.LazyPrior.load
    monkeypatch.setattr(loaders.LazyPrior, "load", lambda self: read.append(self.level) or load(self))
    model = jukebox.load(runs, device="cpu", dtype="bf16")
    assert not read
    model.sample(seconds=1.1)
    assert jukebox.load(runs.split(","), "cpu", torch.bfloat16) is model
    model.sample(seconds=1.1)
    model.represent(np.zeros(1000, dtype=np.float32), layers=1)
    assert sorted(read) == [0, 1, 2]
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_parts_rest_in_host_memory() -> None:
    """Between uses nothing of a prior is on the device."""
    moves: list[str] = []

    class Part:
        def to(self, device: Any) -> Part:
            moves.append(str(device))
            return self

    prior = object.__new__(KeptPrior)
    prior.device, prior._kept = torch.device("cuda"), Part()
    assert loaders.use_prior(prior, prior.device, lambda part: part) is prior._kept
    assert moves == ["cuda", "cpu"]


def test_progress_and_interrupts(model: MusicModel, songs: Songs) -> None:
    seen: list[tuple[int, int, int]] = []
    words = dict(lyrics="la la la", artist="somebody", genre="polka")
    model.sample(seconds=SECONDS, n=2, seed=3, **words, progress=lambda *done: seen.append(done))
    for level, per_code in enumerate(SAMPLES_PER_CODE):
        done = [made for of, made, _ in seen if of == level]
        assert done == sorted(done) and done[-1] == 2 * TOTAL // per_code == seen[[s[0] for s in seen].index(level)][2]

    def stop(*done: int) -> None:
        if done[0] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.sample(seconds=SECONDS, progress=stop)
    assert not os.listdir(".")
    again = model.sample(seconds=SECONDS, n=2, seed=3, **words)
    assert np.array_equal(again[1].audio, songs[1].audio)


def test_slices_and_pages(songs: Songs, tmp_path: Path) -> None:
    last = songs[1:]
    assert isinstance(last, Songs) and len(last) == 1 and np.array_equal(last[-1].audio, songs[1].audio)
    with pytest.raises(IndexError):
        songs[2]
    last.save_page(tmp_path / "page")
    assert load_audio(tmp_path / "page" / "item_0.wav", SR, channels=1)[0].shape == (1, TOTAL)
    text = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "1 item" in text and "level 0" in text and "page" in text
