"""Every command on every other command's folders, files and checkpoints: it works, or one line says what is wrong.

The table is `FLAGS_THAT_READ` times `PRODUCTS`. Both models are small and of other sizes, so that shapes do not fit by
accident.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from tiny_models import make_tiny_runs

from jukebox import align, reconstruct, represent, sample, train
from jukebox.data.synthesizer import make_song
from jukebox.sampling import plan
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError

RECORDED = Path(__file__).parent / "parity" / "recorded" / "merged_lyrics"
LATEST = "checkpoint_latest.pth.tar"
SHORT = dict(sample_length_in_seconds=2.304, hop_fraction=0.5, n_samples=1, device="cpu", overwrite=True)

# What the commands leave, and what else is beside it. `one` and `other` are models.
PRODUCTS = {
    "run of a VQ-VAE": "one/logs/vq",
    "checkpoint of a VQ-VAE": f"one/logs/vq/{LATEST}",
    "run of a prior": "one/logs/top",
    "checkpoint of a prior": f"one/logs/top/{LATEST}",
    "checkpoint of another prior": f"other/logs/top/{LATEST}",
    "run of an upsampler": "one/logs/up0",
    "another model's VQ-VAE": f"other/logs/vq/{LATEST}",
    "folder of runs": "one/logs",
    "songs": "songs",
    "another model's songs": "foreign",
    "songs of a model with more codes": "strange",
    "a level": "songs/level_2",
    "a page": "songs/level_0/index.html",
    "data": "songs/level_0/data.pth.tar",
    "another model's data": "foreign/level_1/data.pth.tar",
    "state": "songs/state.pth.tar",
    "figures of an alignment": "songs/level_0/item_0/align.json",
    "features": "features",
    "an array of features": "array.npy",
    "reconstructions": "heard",
    "audio": "music/a.wav",
    "music": "music",
    "tables": "tables",
    "a table": "tables/artist_ids.txt",
    "Hugging Face layout": "layout",
    "its weights": "layout/model.safetensors",
    "a text": "note.txt",
    "an empty file": "empty",
    "an empty folder": "nothing",
    "nowhere": "nowhere",
}

VQVAE_FLAGS = dict(levels=3, downs_t=[2, 1, 1], strides_t=[2, 2, 2], emb_width=4, l_bins=16, width=4, depth=1, sr=250)
TRAIN = dict(VQVAE_FLAGS, train=True, name="new", device="cpu", nworkers=0, bs=1, epochs=1, labels=False, save=False)
PRIOR = dict(TRAIN, prior=True, level=2, n_ctx=32, prior_width=16, prior_depth=3, heads=2, blocks=4, sample_length=512)
VQ = f"one/logs/vq/{LATEST}"
ENDS = dict(lr_use_linear_decay=True, lr_start_linear_decay=0, lr_decay=1)  # one step
MODEL = "one/logs/up0,one/logs/up1,one/logs/top"

# Command and flag -> a call with what is given there.
FLAGS_THAT_READ: dict[str, Callable[[str], Any]] = {
    "align --model": lambda x: align.main(model=x, logdir="songs", device="cpu"),
    "align --find --model": lambda x: align.main(model=x, logdir="songs", device="cpu", find=True),
    "align --logdir": lambda x: align.main(model=MODEL, logdir=x, device="cpu"),
    "align --weights_from": lambda x: align.main(weights_from=x, logdir="songs", device="cpu"),
    "sample --model": lambda x: sample.main(model=x, name="out", **SHORT),
    "sample --codes_file": lambda x: sample.main(model=MODEL, name="out", mode="continue", codes_file=x, **SHORT),
    "sample upsample": lambda x: sample.main(model=MODEL, name="out", mode="upsample", codes_file=x, **SHORT),
    "sample --audio_file": lambda x: sample.main(model=MODEL, name="out", mode="primed", audio_file=x, **SHORT),
    "sample --metas": lambda x: sample.main(model=MODEL, name="out", metas=x, **SHORT),
    "sample --lyrics_file": lambda x: sample.main(model=MODEL, name="out", lyrics_file=x, **SHORT, dry_run=True),
    "sample --weights_from": lambda x: sample.main(weights_from=x, name="out", **SHORT, dry_run=True),
    "sample --name": lambda x: sample.main(model=MODEL, name=x, **{**SHORT, "overwrite": False}, dry_run=True),
    "sample --resume": lambda x: sample.main(
        model=MODEL, name=x, resume=True, **{**SHORT, "overwrite": False}, dry_run=True
    ),
    "represent --model": lambda x: represent.main(
        **{**defaults(represent), **dict(model=x, audio_files_dir="music", out="out_features", layers=2, device="cpu")}
    ),
    "represent --audio_files_dir": lambda x: represent.main(
        **{**defaults(represent), **dict(model=MODEL, audio_files_dir=x, out="out_features", layers=2, device="cpu")}
    ),
    "reconstruct --model": lambda x: reconstruct.main(
        **{**defaults(reconstruct), **dict(model=x, audio_file="music/a.wav", name="out_heard", device="cpu")}
    ),
    "reconstruct --audio_file": lambda x: reconstruct.main(
        **{**defaults(reconstruct), **dict(model="one/logs/vq", audio_file=x, name="out_heard", device="cpu")}
    ),
    "train --restore_vqvae": lambda x: train.main(
        **TRAIN, **ENDS, audio_files_dir="music", sample_length=512, restore_vqvae=x
    ),
    "train prior --restore_vqvae": lambda x: train.main(**PRIOR, **ENDS, audio_files_dir="music", restore_vqvae=x),
    "train --restore_prior": lambda x: train.main(
        **PRIOR, **ENDS, audio_files_dir="music", restore_vqvae=VQ, restore_prior=x
    ),
    "train --audio_files_dir": lambda x: train.main(**TRAIN, **ENDS, audio_files_dir=x, sample_length=512),
    "train --labels_dir": lambda x: train.main(
        **{**PRIOR, "labels": True}, **ENDS, audio_files_dir="music", restore_vqvae=VQ, labels_dir=x
    ),
    "train --codes_dir": lambda x: train.main(**PRIOR, **ENDS, audio_files_dir="music", restore_vqvae=VQ, codes_dir=x),
}


def defaults(command: Any) -> dict[str, Any]:
    return {flag.name: flag.default for flag in command.FLAGS}


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `PRODUCTS`."""
    folder = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        make_tiny_runs(Path("one"))
        make_tiny_runs(Path("other"), lyrics=False, prior_width=8, n_ctx=16)
        with pytest.MonkeyPatch.context() as more:
            more.setitem(tiny_models.VQVAE, "l_bins", 64)
            strange = make_tiny_runs(Path("wider"))
        for i, name in enumerate("ab"):
            write_audio(Path("music") / f"{name}.wav", make_song(i, 8000, 6.0).audio, 8000)
        flags = dict(SHORT, lyrics="one two", temp=1.0)
        assert sample.main(model=MODEL, name="songs", **flags) == 0
        other = ",".join(f"other/logs/{part}" for part in ("up0", "up1", "top"))
        assert sample.main(model=other, name="foreign", **{**flags, "n_samples": 2}) == 0
        assert sample.main(model=strange, name="strange", **flags) == 0
        FLAGS_THAT_READ["represent --model"](MODEL)
        Path("out_features").rename("features")
        Path("array.npy").write_bytes(next(Path("features").glob("*.npy")).read_bytes())
        FLAGS_THAT_READ["reconstruct --model"]("one/logs/vq")
        Path("out_heard").rename("heard")
        Path("tables").mkdir()
        for kind in ("artist", "genre"):
            Path("tables", f"{kind}_ids.txt").write_text("unknown;0\nsomebody;1\n", encoding="utf-8")
        Path("note.txt").write_text("mila sola\n", encoding="utf-8")
        shutil.copytree(RECORDED, "layout")
        Path("empty").touch()
        Path("nothing").mkdir()
        missing = [path for path in PRODUCTS.values() if not Path(path).exists()]
        assert missing == ["nowhere"]
        torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize("call", list(FLAGS_THAT_READ))
def test_no_pair_ends_in_a_traceback(call: str, products: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(products)
    monkeypatch.setattr(plan, "measure_speed", lambda *_: plan.Speed(0.001, 0.001))
    found = []
    for what, path in PRODUCTS.items():
        try:
            FLAGS_THAT_READ[call](path)
        except UserError:
            pass
        except Exception as error:
            if type(error).__name__ != "HyperparamsError":
                where = traceback.extract_tb(error.__traceback__)[-1]
                found.append(f"{what}: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")
    assert not found, "\n".join([call, *found])
