"""Training with labels from sidecar files, and proof that they reach the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import read_events

from jukebox.data import build_labels
from jukebox.data.synthesizer import ARTISTS, make_song, write_songs
from jukebox.hparams import Hyperparams, setup_hparams
from jukebox.make_models import load_checkpoint, make_prior, make_vqvae, save_checkpoint
from jukebox.train import main
from jukebox.utils.audio.write import write_audio

SR, SECONDS = 8000, 4.0
VQVAE = dict(
    sr=SR, channels=1, levels=2, downs_t=[3, 3], strides_t=[2, 2], width=8, depth=1, emb_width=8, l_bins=32
)  # fmt: skip
# The published sets, shrunk only by flags.
SHRUNK = dict(
    VQVAE,
    n_ctx=64,
    prior_width=32,
    prior_depth=4,
    blocks=8,
    heads=2,
    m_attn=0.5,
    min_duration=1.0,
    max_duration=60.0,
    sample_length=64 * 64,
    y_bins=[5, 5],
)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    write_songs(str(folder), songs=24, seconds=SECONDS, sr=SR, format="wav")
    assert json.loads((folder / "song_0000.json").read_text())["artist"] in ARTISTS
    return folder


@pytest.fixture(scope="module")
def tables(songs: Path) -> Path:
    build_labels.build(audio_files_dir=str(songs), sr=SR, sample_length=0)
    return songs


def random_vqvae(folder: Path, x: torch.Tensor) -> str:
    """Random encoders and a codebook of their outputs for audio [N, T]: enough for codes that differ with the sound."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    hps = setup_hparams("", dict(VQVAE, sample_length=4096, train=True))
    model = make_vqvae(hps, "cpu")
    hps.bandwidth = dict(l1=1.0, l2=1.0, spec=1.0)
    for _ in range(3):
        model(x[..., None], hps, "l2")  # moves the codebook to where the encoder's outputs are
    path = folder / "vqvae.pth.tar"
    save_checkpoint(path, {k: v for k, v in hps.items() if k != "bandwidth"}, model)
    return str(path)


@pytest.fixture(scope="module")
def vqvae(tmp_path_factory: pytest.TempPathFactory) -> str:
    x = torch.stack([torch.from_numpy(make_song(i, SR, SECONDS).audio[:4096]) for i in range(8)])
    return random_vqvae(tmp_path_factory.mktemp("vqvae"), x)


def train(sets: str, songs: Path, vqvae: str, folder: Path, **more: Any) -> Hyperparams:
    """Trains through the command's own function; returns the hyper-parameters of its checkpoint, ready to restore."""
    settings = dict(
        SHRUNK,
        hps=sets,
        name="run",
        local_logdir=str(folder),
        audio_files_dir=str(songs),
        labels_dir=str(songs),
        restore_vqvae=vqvae,
        prior=True,
        level=1,
        train=True,
        bs=4,
        nworkers=0,
        epochs=1,
        lr=0.003,
        lr_warmup=10,
        device="cpu",
        mu=0.9,
    )
    assert main(**{**settings, **more}) == 0
    path = str(folder / "run" / "checkpoint_latest.pth.tar")
    return Hyperparams(load_checkpoint(path)["hps"], restore_prior=path, train=False)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("small_single_enc_dec_prior", dict(n_tokens=16, prior_depth=16)),
        ("small_sep_enc_dec_prior", dict(n_tokens=16, prior_depth=10, prime_width=16, prime_depth=2, prime_blocks=4)),
    ],
)
def test_lyric_priors_train_from_sidecar_files(
    name: str, more: dict[str, Any], songs: Path, tables: Path, vqvae: str, tmp_path: Path
) -> None:
    hps = train(name, songs, vqvae, tmp_path, **more)
    prior = make_prior(hps, make_vqvae(Hyperparams(hps, restore_vqvae=vqvae), "cpu"), "cpu")
    assert prior.use_tokens and prior.n_tokens == 16
    assert prior.step > 5


def test_timed_lyrics_teach_a_head(songs: Path, tables: Path, vqvae: str, tmp_path: Path) -> None:
    """align_loss reads the .lrc files, and the checkpoint says which head was taught and how to read it."""
    more = dict(n_tokens=16, prior_depth=10, prime_width=16, prime_depth=2, prime_blocks=4, align_loss=0.5)
    hps = train("small_sep_enc_dec_prior", songs, vqvae, tmp_path, **more, sample_iters=5)
    pictures = [v for event in read_events(tmp_path / "run" / "logs") for v in event.summary.value if "alig" in v.tag]
    drawn = next(v.image for v in pictures if v.tag == "alignment/0")
    assert (drawn.width, drawn.height) == (64, 16) and drawn.encoded_image_string.startswith(b"\x89PNG")
    assert (hps.alignment_layer, hps.alignment_head, hps.alignment_shift) == (9, 0, 1)


def hum(artist: int, seed: int) -> torch.Tensor:
    """What an artist sounds like in the next test: a tone of their own pitch, and some noise. [T]"""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(int(SR * SECONDS)) / SR
    phase = 6.28 * torch.rand(1, generator=generator)
    return 0.3 * torch.sin(6.28 * 150 * 2.5**artist * t + phase) + 0.03 * torch.randn(len(t), generator=generator)


def test_another_artist_raises_the_loss_of_held_out_songs(tmp_path: Path) -> None:
    songs, names = tmp_path / "songs", ["ada", "ben", "cleo", "dan"]
    for i in range(24):
        write_audio(songs / f"{i}.wav", hum(i % 4, i)[:, None].numpy(), SR)
        (songs / f"{i}.json").write_text(json.dumps(dict(artist=names[i % 4], genre="hum", lyrics="")))
    build_labels.build(audio_files_dir=str(songs), sr=SR, sample_length=0)
    vqvae = random_vqvae(tmp_path, torch.stack([hum(i % 4, 100 + i)[:4096] for i in range(8)]))
    hps = train("small_labelled_prior", songs, vqvae, tmp_path, epochs=6, lr=0.01, y_bins=[2, 5])
    model = make_vqvae(Hyperparams(hps, restore_vqvae=vqvae), "cpu")
    prior = make_prior(hps, model, "cpu")
    right, wrong = [], []
    for i in range(8):  # songs that were never trained on
        z = model.encode(hum(i % 4, 1000 + i)[None, :4096, None], start_level=1)[0]
        for name in names:
            meta = dict(artist=name, genre="hum", lyrics="", total_length=int(SR * SECONDS), offset=0)
            y = prior.get_y(prior.labeller.get_batch_labels([meta], "cpu"), 0)
            with torch.no_grad():
                logits = prior.z_forward(z, (), y, get_preds=True)[1]["preds"]  # type: ignore[index, arg-type]
            # The first two codes are of the silence before a song, and six tell who it is: labels matter between them.
            nats = torch.nn.functional.cross_entropy(logits[0, 2:6], z[0, 2:6]).item()
            (right if name == names[i % 4] else wrong).append(nats)
    assert sum(wrong) / len(wrong) > sum(right) / len(right) + 0.3
