"""Codes ahead of time: the same training as from audio, and a folder that is never trusted blindly."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import T, sound, tiny_hps, tiny_vqvae

from jukebox.data.files_dataset import FilesAudioDataset
from jukebox.hparams import Hyperparams
from jukebox.make_models import save_checkpoint
from jukebox.training import codes as codes_module
from jukebox.training import run
from jukebox.training.codes import CodesDataset, CodesStore, PackedCodes, vqvae_digest
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch

SR = 4000
LABELS = dict(
    labels=True,
    labels_v3=True,
    labels_dir="tables",
    max_bow_genre_size=1,
    y_bins=[3, 3],
    t_bins=4,
    min_duration=0.6,
    max_duration=9.0,
    use_tokens=True,
    n_tokens=8,
    n_vocab=80,
    single_enc_dec=True,
    blocks=4,
    attn_order=2,
    align_loss=0.0,
)


@pytest.fixture(autouse=True)
def songs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Music of five songs of odd lengths with labels, and a VQ-VAE with codebooks."""
    import soundfile

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / "cache"))
    Path("music").mkdir()
    Path("tables").mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        length = 3 * T + 517 * i + 300
        t = np.arange(length) / SR
        wave = 0.4 * np.sin(2 * np.pi * (90 + 60 * i) * t * (1 + 0.2 * t))[:, None] + 0.05 * rng.standard_normal(
            (length, 2)
        )
        soundfile.write(f"music/{i}.wav", wave, SR)
        labels = {"artist": f"a{i % 2}", "genre": "g", "lyrics": f"la la {i}"}
        Path(f"music/{i}.json").write_text(json.dumps(labels), encoding="utf-8")
    Path("tables/artist_ids.txt").write_text("unknown;0\na0;1\na1;2\n", encoding="utf-8")
    Path("tables/genre_ids.txt").write_text("unknown;0\ng;1\n", encoding="utf-8")
    write_vqvae("vqvae.pth.tar", 0)


def write_vqvae(path: str, seed: int) -> None:
    hps = tiny_hps()
    vqvae = tiny_vqvae(hps, seed).train()
    with torch.no_grad():
        vqvae(sound(8, seed), Hyperparams(hps, bandwidth=dict(l1=0.25, l2=0.1, spec=30.0)), loss_fn="l2")
    save_checkpoint(path, hps, vqvae)


def hps_of(**values: Any) -> Hyperparams:
    common = dict(
        prior=True, audio_files_dir="music", restore_vqvae="vqvae.pth.tar", sample_iters=-1, epochs=2, test=True
    )
    return tiny_hps(**{**common, **values})


def train(**values: Any) -> dict[str, Any]:
    hps = hps_of(**values)
    assert run.run_training(hps, "") == 0
    return load_torch(f"logs/{hps.name}/checkpoint_latest.pth.tar")


@pytest.mark.parametrize("kind", [{}, LABELS, dict(level=0, n_ctx=64, cond_width=8, cond_depth=1)])
def test_training_from_codes_equals_training_from_audio(
    kind: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    audio = train(name="audio", **kind)
    heard = [line for line in capsys.readouterr().out.splitlines() if "held-out songs: loss" in line]
    codes = train(name="codes", codes_dir="codes", **kind)
    said = capsys.readouterr().out
    assert "encoding" in said and [line for line in said.splitlines() if "held-out songs: loss" in line] == heard
    assert audio["step"] == codes["step"] > 2
    for part in ("model", "raw_model"):
        for key, value in audio[part].items():
            assert torch.equal(value, codes[part][key]), key
    again = train(name="again", codes_dir="codes", nworkers=1, **kind)  # nothing is encoded, and workers read as well
    assert "encoding" not in capsys.readouterr().out
    assert all(torch.equal(value, again["model"][key]) for key, value in codes["model"].items())


def opened(dataset: CodesDataset, seed: int = 0) -> tuple[CodesDataset, Any]:
    vqvae = tiny_vqvae(tiny_hps(restore_vqvae="vqvae.pth.tar", train=False), seed)
    dataset.prepare(vqvae)
    return dataset, vqvae


def test_labels_and_times_are_those_of_the_audio() -> None:
    Path("music/0.lrc").write_text("[00:00.10]la\n[00:00.90]la 0\n", encoding="utf-8")
    hps = hps_of(codes_dir="codes", **LABELS)
    audio = FilesAudioDataset(hps, with_times=True)
    codes, vqvae = opened(CodesDataset(hps, with_times=True))
    timed = 0
    for part_a, part_c in zip(audio.split(0.9), codes.split(0.9), strict=True):
        for i in range(len(part_a)):
            x, y, times = part_a[i]
            packed, y_c, times_c = part_c[i]
            assert np.array_equal(y, y_c) and np.array_equal(times, times_c)
            timed += int((times[:, 1] > times[:, 0]).sum())
            encoded = vqvae.encode(torch.from_numpy(x).mean(1)[None, :, None])
            assert np.array_equal(packed, encoded[1][0])
    assert timed


def test_shifted_chunks_begin_at_codes_of_the_top_level(capsys: pytest.CaptureFixture[str]) -> None:
    from jukebox.utils.audio.read import load_audio

    dataset, vqvae = opened(CodesDataset(hps_of(codes_dir="codes", aug_shift=True, level=0)))
    top = 128
    offsets = set()
    for epoch in range(3):
        for item in range(len(dataset)):
            song, offset = dataset.locate(item, epoch)
            offsets.add((item, offset))
            assert offset % top == 0 and 0 <= offset <= dataset.durations[song] - T
            audio, _ = load_audio(dataset.files[song], SR, 0, dataset.durations[song] // top * top, channels=2)
            whole = vqvae.encode(torch.from_numpy(audio).mean(0)[None, :, None])
            pieces = [
                z[0, offset // per_code : (offset + T) // per_code]
                for z, per_code in zip(whole, (32, 128), strict=True)
            ]
            assert np.array_equal(dataset[epoch, item], torch.cat(pieces))
    assert len(offsets) > 2 * len(dataset)  # it does shift
    train(name="shift", codes_dir="codes", aug_shift=True)
    assert "chunks begin at codes of the top level, every 128 samples" in capsys.readouterr().out


def test_codes_of_something_else_are_refused() -> None:
    train(codes_dir="codes", epochs=1)
    write_vqvae("other.pth.tar", 1)
    with pytest.raises(UserError, match="another VQ-VAE: give another folder"):
        train(codes_dir="codes", epochs=1, restore_vqvae="other.pth.tar", name="other")
    with pytest.raises(UserError, match="aug_shift=False"):
        train(codes_dir="codes", epochs=1, aug_shift=True, name="shift")
    rate = dict(sr=SR // 2, sample_length=T)
    with pytest.raises(UserError, match="another sr: give another folder"):
        train(codes_dir="codes", epochs=1, name="rate", **rate)


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the samples of everything that is encoded from now on to be written."""
    append, seen = CodesStore.writer, []

    @contextlib.contextmanager
    def counting(self: CodesStore, *rest: Any) -> Any:
        with append(self, *rest) as write:
            yield lambda segment, codes: seen.append(segment[2]) or write(segment, codes)

    monkeypatch.setattr(CodesStore, "writer", counting)
    return seen


@pytest.mark.parametrize("aug_shift", [False, True])
def test_levels_and_lengths_share_a_folder(aug_shift: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each trains as if the folder were its own."""
    seen = count_encoded(monkeypatch)
    kinds: dict[str, dict[str, Any]] = {
        "top": {},
        "upsampler": dict(level=0, n_ctx=32, sample_length=1024, cond_width=8, cond_depth=1),
        "longer": dict(
            n_ctx=32, sample_length=2 * T, min_duration=2.0
        ),  # two of the five songs are long enough by a chunk only
    }
    for name, kind in kinds.items():
        values = dict(kind, aug_shift=aug_shift, epochs=1)
        shared = train(name=name, codes_dir="codes", **values)
        own = train(name=f"own {name}", codes_dir=f"own {name}", **values)
        assert all(torch.equal(value, own["model"][key]) for key, value in shared["model"].items())
    before = len(seen)
    train(name="again", codes_dir="codes", aug_shift=aug_shift, epochs=1, **kinds["upsampler"])
    assert len(seen) == before


@pytest.mark.parametrize("aug_shift", [False, True])
def test_songs_come_and_go(aug_shift: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_encoded(monkeypatch)
    Path("music/4.wav").rename("4.wav")
    train(name="four", codes_dir="codes", epochs=1, aug_shift=aug_shift)
    before = len(seen)
    Path("4.wav").rename("music/4.wav")
    more = train(name="five", codes_dir="codes", epochs=1, aug_shift=aug_shift)
    assert 0 < len(seen) - before < before  # the new song, and chunks that its place has moved
    fresh = train(name="fresh", codes_dir="fresh", epochs=1, aug_shift=aug_shift)
    assert all(torch.equal(value, fresh["model"][key]) for key, value in more["model"].items())
    Path("music/0.wav").unlink()
    train(name="fewer", codes_dir="codes", epochs=1, aug_shift=aug_shift)
    Path("music/3.wav").replace("music/1.wav")  # another song under a name that has codes
    with pytest.raises(UserError, match="holds codes of another 1.wav .of .* bytes, now .*another name"):
        train(name="changed", codes_dir="codes", epochs=1, aug_shift=aug_shift)


def test_the_digest_follows_what_codes_depend_on() -> None:
    vqvae = tiny_vqvae(tiny_hps())
    before = vqvae_digest(vqvae)
    with torch.no_grad():
        vqvae.decoders[0].out.bias.add_(1.0)
    assert vqvae_digest(vqvae) == before
    with torch.no_grad():
        vqvae.bottleneck.level_blocks[1].k[3, 2] += 1e-3
    assert vqvae_digest(vqvae) != before


def test_a_write_that_died_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    hps = hps_of(codes_dir="whole")
    whole, vqvae = opened(CodesDataset(hps))
    dying = CodesDataset(Hyperparams(hps, codes_dir="died"))
    encode, calls = vqvae.encode, []

    def failing(x: torch.Tensor) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(x)

    monkeypatch.setattr(vqvae, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        dying.prepare(vqvae)
    with open("died/part_0/level_0.bin", "ab") as file:
        file.write(b"half a segment")  # as a kill leaves it: codes that no index knows
    monkeypatch.setattr(vqvae, "encode", lambda x: calls.append(1) or encode(x))
    del calls[:]
    resumed = CodesDataset(Hyperparams(hps, codes_dir="died"))
    resumed.prepare(vqvae)
    assert len(calls) == len(whole.segments()) - 3
    for level in (0, 1):
        name = f"part_0/level_{level}.bin"
        assert Path("died", name).read_bytes() == Path("whole", name).read_bytes()
    part = resumed.split(0.9)[0]
    assert all(np.array_equal(part[i], whole.split(0.9)[0][i]) for i in range(len(part)))


def test_packed_codes() -> None:
    asked = []
    packed = PackedCodes([32, 128], T, 1, lambda x, **where: asked.append(where) or [x])
    x = torch.arange(80)[None]
    low, top = packed(x, 1, 3)
    assert low.tolist() == [list(range(64))] and top.tolist() == [list(range(64, 80))]
    assert packed(x, 2, 3)[0].tolist() == [list(range(64, 80))]
    packed(torch.zeros(1, T, 1), 1, 3)
    assert asked == [dict(start_level=1, end_level=3, bs_chunks=1)]


PROGRAM = """
import os, sys
from training.test_codes import CodesDataset, hps_of, opened
from jukebox.utils.errors import UserError

children = []
for _ in range(2):
    if not (child := os.fork()):
        try:
            opened(CodesDataset(hps_of(codes_dir="both")))
        except UserError as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(2)
        os._exit(0)
    children.append(child)
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_two_jobs_that_start_on_one_folder() -> None:
    """One is refused, or both are done one after the other; the codes are right."""
    pytest.importorskip("fcntl")
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()[-2:]) in (["0", "0"], ["0", "2"]), done
    assert "2" not in done.stdout.split()[-2:] or "codes_dir=both: another process is writing" in done.stderr
    opened(CodesDataset(hps_of(codes_dir="one")))
    for name in ("index.json", "level_0.bin", "level_1.bin"):
        assert Path("both/part_0", name).read_bytes() == Path("one/part_0", name).read_bytes()


@pytest.mark.parametrize("damage", ["half", "zeros", "gone", "bit", "index", "no digests"])
def test_damaged_codes_are_made_again(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    hps = hps_of(codes_dir="codes")
    opened(CodesDataset(hps))
    part = Path("codes/part_0")
    before = {path.name: path.read_bytes() for path in part.iterdir()}
    path, index = part / "level_1.bin", part / "index.json"
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "index":
        index.write_text('{"segments": [[3]], "songs": {}}', encoding="utf-8")
    elif damage == "no digests":
        found = json.loads(index.read_text(encoding="utf-8"))
        index.write_text(json.dumps({key: found[key] for key in ("segments", "songs")}), encoding="utf-8")
    else:
        middle = len(data) // 2
        bit = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"half": data[:middle], "zeros": bytes(len(data)), "bit": bit}[damage])
    capsys.readouterr()
    dataset, _ = opened(CodesDataset(hps))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{part} is damaged or has no digests: its codes are made again" and len(said) == 2
    assert before == {path.name: path.read_bytes() for path in part.iterdir()}
    opened(CodesDataset(hps))
    assert not capsys.readouterr().out


def test_a_full_disk_keeps_the_codes_that_were_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_module, "SAVE_SECONDS", 0.0)
    sync, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(1)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    hps = hps_of(codes_dir="codes")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="^no space left to write .*codes/part_0: .* kept; free some space"):
            opened(CodesDataset(hps))
    store = CodesDataset(hps).store
    store.open()
    kept = len(store.places)
    dataset, _ = opened(CodesDataset(hps))
    assert 0 < kept < len(dataset.segments()) == len(dataset.store.places)
