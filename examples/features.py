"""Means of layer 36 of the top level, as music retrieval takes them: python examples/features.py MUSIC OUT 5b 36"""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from jukebox.hparams import setup_hparams
from jukebox.make_models import MODELS, make_prior, make_vqvae
from jukebox.utils.io import EXTENSIONS, load_audio

torch.set_grad_enabled(False)
music, out, device, acts = Path(sys.argv[1]), Path(sys.argv[2]), "cuda" if torch.cuda.is_available() else "cpu", {}
out.mkdir(parents=True, exist_ok=True)
vqvae = make_vqvae(setup_hparams(MODELS[sys.argv[3]][0], {"sample_length": 2**20}), device)
hps = setup_hparams(MODELS[sys.argv[3]][-1], {"prior_depth": int(sys.argv[4])})  # reads these layers only
top = make_prior(hps, vqvae, device)
top.prior.only_encode, sr, per_code, n_ctx = True, hps.sr, top.raw_to_tokens, top.n_ctx


def windows(file):  # of a song: codes, labels, and how many positions the window before has already
    audio, done = torch.from_numpy(load_audio(file, sr, channels=1)[0].T), 0
    total = max(len(audio), int(np.ceil(hps.min_duration * sr)))  # the model knows no shorter songs
    for start in (min(i, max(0, len(audio) // per_code - n_ctx)) for i in range(0, len(audio) // per_code, n_ctx)):
        z = vqvae.encode(audio[None, start * per_code : (start + n_ctx) * per_code], start_level=top.level)[0][0]
        yield file, z, dict(artist="", genre="", lyrics="", total_length=total, offset=start * per_code), done - start
        done = start + len(z)


todo = (w for file in sorted(music.rglob("*")) if file.suffix[1:].lower() in EXTENSIONS for w in windows(file))
while batch := [*islice(todo, 4)]:  # four windows at a time, of any songs
    files, codes, metas, known = zip(*batch, strict=True)
    z = torch.nn.utils.rnn.pad_sequence(codes, batch_first=True)
    x_cond, y_cond, _ = top.get_cond(None, top.get_y(top.labeller.get_batch_labels(metas, device), 0))
    h = top.prior.forward(z, x_cond=x_cond[:, : z.shape[1]], y_cond=y_cond, fp16=device == "cuda")
    for file, code, rows, first in zip(files, codes, h, known, strict=True):
        acts.setdefault(file, []).append(rows[first : len(code)].cpu())
        np.save(out / f"{file.stem}.npy", torch.cat(acts[file]).mean(0))
