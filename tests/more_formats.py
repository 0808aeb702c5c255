"""Good files of the formats that hold several files or need a model, and what reads them: for `test_mutations.py`.

A reader works on a copy of the folder if what it reads is written again when it is damaged.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_training import CPU, TinyData, tiny_hps, tiny_model

from jukebox.data.metadata import FolderMetadata, Notices
from jukebox.features.results import array_path, find_note, note_path, write_note
from jukebox.loaders import bare_prior, find_model, load_vqvae
from jukebox.make_models import load_checkpoint
from jukebox.sampling.flags import read_settings
from jukebox.sampling.record import read_again
from jukebox.training.checkpoint import restore_training, save_training
from jukebox.training.codes import CodesStore
from jukebox.training.saved_shards import load_shards, save_shards
from jukebox.training.step import Training, make_training, train_step
from jukebox.utils.audio.write import write_audio
from jukebox.utils.run_files import RunFiles
from jukebox.weights.huggingface import load_huggingface

Reader = Callable[[Path], object]
Formats = dict[str, tuple[Path, Reader]]

RECORDED = Path(__file__).parent / "parity" / "recorded" / "separate_lyrics"
# extension -> FFmpeg's container and encoder, of formats that are read and not written
CONTAINERS = {
    "aiff": ("aiff", "pcm_s16be"),
    "webm": ("webm", "libopus"),
    "wma": ("asf", "wmav2"),
    "aac": ("adts", "aac"),
    "mp4": ("mp4", "aac"),
}
MORE = [
    "prior checkpoint",
    "state of training",
    "index of shards",
    "shards",
    "codes cache, index",
    "codes cache, codes",
]
MORE += ["codes cache, origin", "HF config in use", "HF index", "HF shard", "song record", "song record in tags"]
MORE += ["note of features", "labels beside a song", "tags"]
MORE += [f"audio, {extension}" for extension in CONTAINERS]


def make_more(folder: Path, runs: str, read_audio: Reader) -> Formats:
    """A good file of each of these formats, and what reads it."""
    top = Path(runs.split(",")[-1]) / "checkpoint_latest.pth.tar"
    found: Formats = {"prior checkpoint": (top, lambda path: load_all(find_model(str(path))))}
    for part in (training_states, codes_cache, huggingface):
        found.update(part(folder))
    found.update(records(folder, runs))
    for extension, (container, encoder) in CONTAINERS.items():
        encode(folder / f"a.{extension}", container, encoder)
        found[f"audio, {extension}"] = (folder / f"a.{extension}", read_audio)
    return found


def load_all(model: Any) -> None:
    """Loads all parts of a model, as sampling does."""
    vqvae = model.vqvae(64, "cpu")
    for i, level in enumerate(model.levels):
        if level is not None:
            model.prior(i, vqvae, CPU).load()
            assert level.labeller is not None


def training_states(folder: Path) -> Formats:
    hps = tiny_hps(prior=True, bs=2, mu=0.9, ema_fused=False)
    torch.manual_seed(0)

    def make() -> Training:
        return make_training(tiny_model(hps), hps, CPU)

    training, other = make(), make()
    for batch in TinyData(hps, batches=2).train_loader:
        train_step(training, [batch])
    files = RunFiles(str(folder / "training"))
    save_training(training, files, {"hps": dict(hps), "command": ""}, {})
    besides = {"folder": "shards_2", **save_shards(training, str(folder / "training/shards_2"))}
    shards = folder / "training/shards_2"

    def read_shards(path: Path) -> None:
        load_shards(other, str(path.parents[1]), besides, 2)

    return {
        "state of training": (
            Path(files.latest),
            lambda path: restore_training(other, load_checkpoint(str(path)), str(path.parent)),
        ),
        "index of shards": (shards / "index.json", read_shards),
        "shards": (shards / "part_0.safetensors", read_shards),
    }


def codes_cache(folder: Path) -> Formats:
    made_of = dict(version=2, vqvae="a", hops=[4, 16])
    songs = {f"{name}.wav": (64, 100) for name in "abc"}
    codes = {name: [np.arange(n) + i for n in (16, 4)] for i, name in enumerate(songs)}

    def open_store(place: Path) -> CodesStore:
        store = CodesStore(str(place), [4, 16], np.uint16)
        store.claim(made_of)
        return store

    good = folder / "codes"
    store = open_store(good)
    with store.writer("part_0", songs) as append:
        for name in songs:
            append((name, 0, 64), codes[name])

    def read(path: Path) -> None:
        """As training does: what is damaged is removed; what is left are the codes that were written."""
        place = folder / "codes_read"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(good, place)
        with contextlib.redirect_stdout(io.StringIO()):
            store = open_store(place)
            for part in store.damaged_parts():
                store.remove(part)
        segments = [(name, 0, 64) for name in songs]
        missing = store.missing(segments, songs)
        for segment in set(segments) - set(missing):
            got = store.read(segment, 0, 64, 0)
            assert got is not None and (got == np.concatenate(codes[segment[0]])).all(), "other codes than were written"

    files = {"index": "part_0/index.json", "codes": "part_0/level_0.bin", "origin": "codes.json"}
    return {f"codes cache, {what}": (good / name, read) for what, name in files.items()}


def huggingface(folder: Path) -> Formats:
    """Single values of config.json with the weights that it describes; an index, and one of its two shards."""
    whole, split = folder / "hf_whole", folder / "hf_split"
    shutil.copytree(RECORDED, whole)
    split.mkdir()
    weights = {key: value.contiguous() for key, value in load_file(whole / "model.safetensors").items()}
    places = {}
    for i in range(2):
        names = sorted(weights)[i::2]
        save_file({key: weights[key] for key in names}, split / f"model-{i}.safetensors")
        places.update(dict.fromkeys(names, f"model-{i}.safetensors"))
    (split / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))

    def read_config(path: Path) -> None:
        model = find_model("", str(path.parent))
        vqvae = load_vqvae(model.vqvae_hps, "cpu")
        for level in model.levels:
            if level is not None and not level.hps.labels:
                bare_prior(level, vqvae)

    def read_parts(path: Path) -> object:
        return dict(load_huggingface(path.parent))

    return {
        "HF config in use": (whole / "config.json", read_config),
        "HF index": (split / "model.safetensors.index.json", read_parts),
        "HF shard": (split / "model-1.safetensors", read_parts),
    }


def records(folder: Path, runs: str) -> Formats:
    """What is beside songs and features, and in the tags of songs."""
    model = find_model(runs)
    flags = dict(model=runs, artist="somebody", genre="polka", lyrics="la la", temp=0.9, n_samples=2, seed=3)
    flags.update(sample_length_in_seconds=2.304, hop_fraction=0.5, mode="ancestral")
    record = dict(title="t", run="runs/one", song=1, flags=flags, versions=dict(torch="2"))
    (folder / "item_0.json").write_text(json.dumps(record))
    x = 0.2 * np.sin(np.arange(4000) / 9)
    write_audio(folder / "record.flac", x, 8000, {"title": "t", "jukebox": json.dumps(record)})
    write_audio(folder / "tags.mp3", x, 8000, {"artist": "anna", "genre": "disco", "lyrics": "[00:00.10]la\nlu"})
    beside = folder / "beside"
    beside.mkdir()
    (beside / "a.json").write_text(json.dumps(dict(artist="anna", genre="disco", lyrics="la la")))
    out, settings = folder / "features", dict(model="m", level=2, layers=[1])
    array_path(out, "a.wav").parent.mkdir()
    np.save(array_path(out, "a.wav"), np.zeros((1, 4), np.float32))
    write_note(out, "a.wav", {**settings, "shape": [1, 4], "audio_bytes": 9})

    def read_song(path: Path) -> object:
        again = read_again(str(path))
        return read_settings({**again, "name": "x", "model": runs}, model)

    def read_tags(path: Path) -> object:
        with av.open(str(path), metadata_errors="replace") as container:
            tags = {key.lower(): text for key, text in container.metadata.items()}
        return FolderMetadata(folder / "nothing", Notices()).read("tags.mp3", tags, 0.5)

    return {
        "song record": (folder / "item_0.json", read_song),
        "song record in tags": (folder / "record.flac", read_song),
        "note of features": (note_path(out, "a.wav"), lambda path: find_note(out, "a.wav", settings, 9)),
        "labels beside a song": (
            beside / "a.json",
            lambda path: FolderMetadata(beside, Notices()).read("a.wav", {}, 20.0),
        ),
        "tags": (folder / "tags.mp3", read_tags_of(read_tags)),
    }


def read_tags_of(read: Reader) -> Reader:
    """Files that FFmpeg itself refuses have no tags to read."""

    def reader(path: Path) -> object:
        try:
            return read(path)
        except av.error.FFmpegError:
            return None

    return reader


def encode(path: Path, container: str, encoder: str) -> None:
    """A second and a half of sound at 48 kHz, by FFmpeg."""
    x = (0.2 * np.sin(np.arange(72000) / 50)).astype(np.float32)[None]
    with av.open(str(path), "w", format=container) as out:
        stream: Any = out.add_stream(encoder, rate=48000, layout="mono")
        stream.bit_rate = 64000
        stream.codec_context.open(strict=False)
        converter = av.AudioResampler(stream.format, "mono", 48000, stream.codec_context.frame_size or None)
        frame = av.AudioFrame.from_ndarray(x, format="fltp", layout="mono")
        frame.sample_rate = 48000
        for piece in [*converter.resample(frame), *converter.resample(None), None]:
            out.mux(stream.encode(piece))
