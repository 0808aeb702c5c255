"""A three-level model so small that whole runs take a second: untrained, but with every part that a real one has.

Levels have 4, 8 and 16 samples a token, at 250 samples a second, and contexts of 32 tokens, so that 2.304 s are 36
tokens at the top, 72 and 144. The top prior has labels and, unless asked not to, lyrics with a separate encoder.
Checkpoints are as training leaves them, under `logs/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from jukebox.data.labels import Labeller
from jukebox.hparams import Hyperparams, setup_hparams
from jukebox.make_models import make_prior, make_vqvae, save_checkpoint

SR = 250
SAMPLES_PER_CODE = [4, 8, 16]
N_CTX = 32
ARTISTS = {"unknown": 0, "the examples": 1, "somebody": 2}
GENRES = {"unknown": 0, "waltz": 1, "polka": 2}

VQVAE = dict(
    levels=3,
    downs_t=[2, 1, 1],
    strides_t=[2, 2, 2],
    emb_width=4,
    l_bins=16,
    width=4,
    depth=1,
    sr=SR,
    sample_length=1024,
)
PRIOR = dict(
    n_ctx=N_CTX,
    prior_width=16,
    prior_depth=3,
    heads=2,
    attn_order=2,
    blocks=4,
    init_scale=3.0,  # so that tokens depend on each other even untrained
    cond_width=4,
    cond_depth=1,
    labels=True,
    labels_v3=True,
    y_bins=[3, 3],
    max_bow_genre_size=1,
    t_bins=8,
    min_duration=2.0,
    max_duration=60.0,
    prior=True,
)
LYRICS = dict(
    use_tokens=True,
    n_tokens=8,
    n_vocab=79,
    attn_order=6,
    prior_depth=4,
    prime_width=8,
    prime_depth=2,
    prime_blocks=2,
    prime_attn_order=2,
    alignment_layer=3,
    alignment_head=1,
)


def make_tiny_runs(folder: Path, lyrics: bool = True, **top: Any) -> str:
    """Writes checkpoints of all parts below `folder/logs` and returns what to give as --model.

    Args:
        lyrics: whether the top prior reads lyrics.
        top: hyper-parameters of the top prior that win over those above.
    """
    torch.manual_seed(0)
    paths = {name: str(folder / "logs" / name / "checkpoint_latest.pth.tar") for name in ("vq", "up0", "up1", "top")}
    vqvae_hps = setup_hparams("", VQVAE)
    vqvae = make_vqvae(Hyperparams(vqvae_hps), "cpu")
    save_checkpoint(paths["vq"], Hyperparams(vqvae_hps, train=True), vqvae)
    for level, name in enumerate(("up0", "up1", "top")):
        extra = {**(LYRICS if lyrics else {}), **top} if name == "top" else {}
        hps = setup_hparams("", {**VQVAE, **PRIOR, "level": level, **extra})
        prior = make_prior(Hyperparams(hps), vqvae, "cpu")
        labeller = Labeller(1, hps.n_tokens if hps.use_tokens else 0, prior.sample_length, True, ARTISTS, GENRES)
        saved = Hyperparams(hps, train=True, restore_vqvae=paths["vq"])
        labels = labeller.state() if hps.labels else None
        save_checkpoint(paths[name], saved, prior, labels=labels)
    return ",".join(str(folder / "logs" / name) for name in ("up0", "up1", "top"))
