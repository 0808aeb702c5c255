"""Files of every kind, changed at random: each is read, or refused by one line, quickly and in little memory.

`JUKEBOX_TEST_MUTATIONS` is the number of mutants of each format, `JUKEBOX_TEST_SEED` the seed. A format is a line in
`FORMATS`: what makes a good file in a folder, and what reads it.
"""

from __future__ import annotations

import json
import os
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from faults import Tried, peak
from more_formats import MORE, make_more
from safetensors.torch import save_file
from tiny_models import make_tiny_runs

from jukebox.align import what_does_not_fit
from jukebox.data.label_tables import read_table
from jukebox.data.labels import Labeller
from jukebox.data.lrc import parse_lyrics
from jukebox.data.text_files import decode_text
from jukebox.data.text_processor import read_vocabulary
from jukebox.hparams import HyperparamsError, check_value, setup_hparams
from jukebox.loaders import find_model, find_vqvae, load_vqvae
from jukebox.sampling.metas import read_metas
from jukebox.sampling.prompts import read_codes
from jukebox.sampling.state import STATE_FILE, VERSION, RunState
from jukebox.utils.audio import index
from jukebox.utils.audio.read import about_audio, load_audio
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch
from jukebox.weights.huggingface import load_huggingface, read_config
from jukebox.weights.huggingface_config import config_hparams

MUTANTS = int(os.environ.get("JUKEBOX_TEST_MUTATIONS", "40"))
SEED = int(os.environ.get("JUKEBOX_TEST_SEED", "0"))
SLOW, LARGE = 10.0, 1024.0  # seconds and MB that no mutant may take
ODD: list[Any] = [None, "", "x", -1, 0, 2.5, 10**9, -(10**18), 10**40, float("nan"), float("inf"), [], {}, [[]], True]
ODD += [{"a": 1}, [1] * 50, "\ud800", "a\0b", "../../x", "9" * 5000]
TENSORS = [
    torch.zeros(0),
    torch.ones(3),
    torch.ones(1, 2).long(),
    torch.full((2, 2), float("nan")),
    torch.ones(2, 3) > 0,
]

JSON_FILES: dict[str, Any] = {
    "song index": dict(
        version=index.VERSION, files={"a.wav": dict(size=3, mtime_ns=5, seconds=2.5, tags={"title": "t"})}
    ),
    "HF config": dict(
        vqvae_config=dict(levels=2, embed_dim=8, nb_discrete_codes=16, res_downs_t=[3, 2], res_strides_t=[2, 2]),
        prior_config_list=[
            dict(n_ctx=16, hidden_size=16, num_layers=2, attention_pattern="full_dense_attention", max_nb_genres=1),
            dict(n_ctx=16, metadata_dims=[3, 3], nb_relevant_lyric_tokens=0),
        ],
        sampling_rate=8000,
    ),
    "metas": [dict(artist="anna", genre="disco", lyrics="la la", total_length_in_seconds=20.0)],
    "label table, JSON": {"a.wav": dict(artist="anna", genre="disco"), "b/c.mp3": dict(lyrics="la")},
    "record of a run": dict(hps=dict(sr=8000, levels=3, strides_t=[2, 2, 2], fp16=True, labels=False, y_bins=[3, 5])),
}
TEXT_FILES = {
    "label table, CSV": 'file,artist,genre,lyrics\na.wav,anna,disco,la la\nb.wav,ben,waltz,"lu\nlu"\n',
    "label table, JSONL": '{"file": "a.wav", "artist": "anna"}\n{"file": "b.wav", "genre": "disco"}\n',
    "vocabulary": "abc def\nghi\n",
    "LRC": "[ti:song]\n[offset:+500]\n[00:01.20]mila <00:01.80>sola\n[00:02.50][00:09.00]kalu mesi\n",
    "SRT": "1\n00:00:01,000 --> 00:00:02,500\nmila sola\n\n2\n00:00:03,000 --> 00:00:04,000\nkalu\n",
}
AUDIO = ("wav", "flac", "mp3", "ogg", "opus", "m4a", "caf")


def make_files(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """A good file of each format, and what reads it."""
    runs = make_tiny_runs(folder / "runs")
    found: dict[str, tuple[Path, Callable[[Path], object]]] = {}
    vqvae = Path(runs.split(",")[0]).parent / "vq/checkpoint_latest.pth.tar"
    found["checkpoint"] = (vqvae, lambda path: load_vqvae(find_vqvae(str(path)), torch.device("cpu")))
    state = folder / "state" / STATE_FILE
    state.parent.mkdir()
    codes = [torch.zeros(2, 8).long(), torch.ones(2, 4).long()]
    settings = dict(model="tiny", seed=3)
    kwargs = [dict(temp=0.9, fp16=False, max_batch_size=2, chunk_size=16)] * 2
    whole = dict(
        version=VERSION, settings=settings, zs=codes, done=[1], sampling_kwargs=kwargs, given=[0, 0], levels=[0, 1]
    )
    torch.save(whole, state)
    found["interrupted state"] = (state, lambda path: RunState.load(path.parent))
    data = folder / "data.pth.tar"
    torch.save(
        dict(zs=codes, labels=[None, dict(y=torch.zeros(2, 5).long(), info=[{}, {}])], x=torch.zeros(2, 9, 1)), data
    )
    model = find_model(runs)
    assert model.top is not None and isinstance(model.top.labeller, Labeller)
    y = torch.zeros(2, model.top.labeller.row.size).long()
    other = folder / "level_0.pth.tar"
    torch.save(
        dict(zs=[codes[0]] * 3, labels=[dict(y=y, info=[dict(full_tokens=[1, 2]), {}])], hps={"sr": 8000}), other
    )
    assert not what_does_not_fit(load_torch(other), model)
    found["run in align"] = (other, lambda path: what_does_not_fit(load_torch(path), model))
    found["codes of a run"] = (data, lambda path: read_codes(str(path)))
    tensors = {
        "vqvae.bottleneck.level_blocks.0.codebook": torch.ones(4, 2),
        "vqvae.encoders.0.level_blocks.0.proj_out.bias": torch.ones(3),
        "priors.0.prior.start_token": torch.ones(1, 4),
    }
    (folder / "hf").mkdir()
    save_file(tensors, folder / "hf/model.safetensors")
    found["safetensors"] = (folder / "hf/model.safetensors", lambda path: dict(load_huggingface(path.parent)))
    names = {
        "song index": "i.json",
        "HF config": "hf2/config.json",
        "metas": "m.json",
        "label table, JSON": "metadata.json",
        "record of a run": "hparams.json",
    }
    readers: dict[str, Callable[[Path], object]] = {
        "song index": index._read,
        "HF config": lambda path: config_hparams(read_config(path.parent)),
        "metas": lambda path: read_metas(str(path)),
        "label table, JSON": read_table,
        "record of a run": lambda path: setup_hparams(str(path), {}),
    }
    for name, content in JSON_FILES.items():
        path = folder / names[name]
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        found[name] = (path, readers[name])
    for name, text in TEXT_FILES.items():
        path = folder / {"label table, CSV": "metadata.csv", "label table, JSONL": "metadata.jsonl"}.get(
            name, f"{name}.txt"
        )
        path.write_text(text)
        read: Callable[[Path], object] = read_table if "table" in name else read_vocabulary
        found[name] = (path, read_timed if name in ("LRC", "SRT") else read)
    x = 0.2 * np.sin(np.arange(12000) / 9)
    for extension in AUDIO:
        if extension == "caf":
            soundfile.write(folder / "a.caf", x, 8000)
        else:
            write_audio(folder / f"a.{extension}", x, 8000, {"title": "t"})
        found[f"audio, {extension}"] = (folder / f"a.{extension}", read_audio)
    return {**found, **make_more(folder, runs, read_audio)}


def read_timed(path: Path) -> object:
    text = decode_text(path.read_bytes())
    return None if text is None else parse_lyrics(text[0], 20.0)


def read_audio(path: Path) -> object:
    return about_audio(path), load_audio(path, 8000, 0, 4000, check_duration=False)


def changed_bytes(content: bytes, draw: random.Random) -> bytes:
    """Bytes with some flipped, cut, doubled, or put in."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 3, 20])):
        at = draw.randrange(len(data)) if data else 0
        what = draw.randrange(5)
        if what == 0 and data:
            data[at] ^= 1 << draw.randrange(8)
        elif what == 1:
            data[at : at + draw.choice([1, 4, 8])] = draw.choice(
                [b"\xff" * 4, b"\0" * 4, b"9" * 30, b'"', b"{[", b"[99:99]"]
            )
        elif what == 2:
            del data[at : at + draw.randrange(1, 200)]
        elif what == 3:
            data[at:at] = data[at : at + draw.randrange(1, 100)]
        else:
            data[at : at + 4] = draw.randbytes(4)
    return bytes(data)


def changed_value(value: Any, draw: random.Random, odd: list[Any]) -> Any:
    """A value with one of its parts replaced, left out, or put in."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed_value(value[key], draw, odd)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        i = draw.randrange(len(value))
        return [*value[:i], changed_value(value[i], draw, odd), *value[i + 1 :]]
    return draw.choice(odd)


def mutant(path: Path, whole: bytes, draw: random.Random) -> None:
    """Writes a changed file to a path: of JSON and PyTorch files half the time a whole one with another content."""
    if path.suffix in (".json", ".jsonl") and draw.random() < 0.02:
        path.write_text(draw.choice(["[", '{"a":', '[{"a":']) * 100_000)
    elif path.suffix == ".json" and draw.random() < 0.6:
        path.write_text(json.dumps(changed_value(json.loads(whole), draw, ODD)))
    elif path.name.endswith(".pth.tar") and draw.random() < 0.7:
        torch.save(changed_value(load_torch(path), draw, ODD + TENSORS), path)
    else:
        path.write_bytes(changed_bytes(whole, draw))


FORMATS = ["checkpoint", "interrupted state", "codes of a run", "run in align", "safetensors", *JSON_FILES, *TEXT_FILES]
FORMATS += [f"audio, {extension}" for extension in AUDIO] + MORE


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    return make_files(tmp_path_factory.mktemp("formats"))


@pytest.mark.faults("a damaged file is read, or refused in a line", "{name}: changed at random")
@pytest.mark.parametrize("name", FORMATS)
def test_mutants(files: dict[str, tuple[Path, Callable[[Path], object]]], name: str, tried: Tried) -> None:
    path, read = files[name]
    whole, before, failed = path.read_bytes(), peak(), list[str]()
    read(path)
    for number in range(MUTANTS):
        path.write_bytes(whole)
        mutant(path, whole, random.Random(f"{SEED} {name} {number}"))
        with tried.one():
            try:
                read(path)
            except (UserError, HyperparamsError):
                pass
            except Exception:
                failed.append(f"mutant {number}: {traceback.format_exc()}")
    tried.failures = len(failed)
    path.write_bytes(whole)
    assert not failed, f"{len(failed)} of {MUTANTS}\n" + "\n".join(failed[:4])
    assert tried.longest < SLOW and peak() - before < LARGE


def test_what_longer_runs_found(files: dict[str, tuple[Path, Callable[[Path], object]]]) -> None:
    """A version or a flag that is a tensor, and an end of an archive that says that there are more disks."""
    path, read = files["interrupted state"]
    whole = path.read_bytes()
    with pytest.raises(HyperparamsError):
        check_value("train", torch.ones(3))
    torch.save({**load_torch(path), "version": torch.ones(3)}, path)
    with pytest.raises(UserError, match="another version"):
        read(path)
    end = whole.rindex(b"PK\x05\x06")
    for disks in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x02"):
        path.write_bytes(whole[: end - 4] + disks + whole[end:])
        with pytest.raises(UserError, match="damaged"):
            read(path)
    path.write_bytes(whole)
