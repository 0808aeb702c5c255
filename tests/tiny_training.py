"""Tiny models and made-up data for the tests of training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from jukebox.data.data_processor import EpochBatches
from jukebox.hparams import Hyperparams, setup_hparams
from jukebox.make_models import make_prior, make_vqvae

CPU = torch.device("cpu")
T = 2048  # samples in a chunk: 64 codes of level 0, 16 of level 1

VQVAE = dict(
    levels=2,
    downs_t=[5, 2],
    strides_t=[2, 2],
    emb_width=8,
    l_bins=16,
    width=8,
    depth=1,
    sr=4000,
    sample_length=T,
    multispec_loss_n_fft=[128, 64],
    multispec_loss_hop_length=[32, 16],
    multispec_loss_window_size=[64, 32],
    linf_k=32,
)
PRIOR = dict(prior=True, level=1, n_ctx=16, prior_width=16, prior_depth=2, blocks=4, attn_order=2, init_scale=0.5)
RUN = dict(
    name="tiny",
    train=True,
    labels=False,
    bs=2,
    lr=0.01,
    lr_warmup=2,
    lr_decay=20,
    lr_gamma=0.5,
    device="cpu",
    nworkers=0,
    bf16=False,  # what None becomes on a CPU
)


def tiny_hps(**values: Any) -> Hyperparams:
    """Hyper-parameters of a tiny VQ-VAE, or with prior=True of a tiny prior on its top level."""
    prior = PRIOR if values.get("prior") else {}
    return setup_hparams("", {**VQVAE, **RUN, **prior, **values})


def sound(n: int, seed: int, channels: int = 1) -> torch.Tensor:
    """n chunks of tones and a little noise, [n, T, channels]."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(T) / 4000
    pitch = 80 + 400 * torch.rand(n, channels, generator=generator)
    tone = 0.4 * torch.sin(2 * torch.pi * pitch[:, None, :] * t[:, None])  # [n, T, channels]
    return tone + 0.05 * torch.randn(n, T, channels, generator=generator)


class TinyData:
    """What a DataProcessor offers, over made-up sound: a pure function of the epoch."""

    dataset = None

    def __init__(
        self, hps: Hyperparams, with_times: bool = False, batches: int = 5, rank: int = 0, ranks: int = 1
    ) -> None:
        self.hps, self.batches, self.rank, self.ranks = hps, batches, rank, ranks
        self.train_dataset = [sound(1, seed)[0] for seed in range(20)]
        self.train_loader = TinyLoader(self)
        self.test_loader = [sound(hps.bs, 900 + i) for i in range(2)]
        self.test_sampler = EpochBatches(2 * hps.bs, hps.bs, shuffle=False)
        self.set_epoch(0)

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        self.epoch, self.start = epoch, step

    def state_dict(self, step: int) -> dict[str, int]:
        return {"epoch": self.epoch, "done": step}

    def load_state_dict(self, state: dict[str, int]) -> tuple[int, int]:
        self.set_epoch(state["epoch"], state["done"])
        return self.epoch, self.start


class TinyLoader:
    def __init__(self, data: TinyData) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.batches

    def __iter__(self) -> Any:
        data = self.data
        for i in range(data.start, data.batches):
            whole = sound(data.hps.bs * data.ranks, 1000 * data.epoch + i)
            yield whole[data.rank :: data.ranks]


def tiny_vqvae(hps: Hyperparams, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return make_vqvae(Hyperparams(hps), CPU)


def tiny_prior(hps: Hyperparams, seed: int = 0) -> Any:
    """A prior on a VQ-VAE whose codebooks come from one batch."""
    vqvae = tiny_vqvae(hps, seed)
    vqvae.train()
    with torch.no_grad():
        vqvae(sound(8, seed), hps, loss_fn="l2")
    vqvae.eval()
    return make_prior(Hyperparams(hps), vqvae, CPU)


def tiny_model(hps: Hyperparams, seed: int = 0) -> Any:
    return tiny_prior(hps, seed) if hps.prior else tiny_vqvae(hps, seed)


def read_events(folder: str | Path) -> Iterator[Any]:
    """The TensorBoard events in the files of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    for name in sorted(os.listdir(folder)):
        data, i = Path(folder, name).read_bytes(), 0
        while i < len(data):  # length (8), its checksum (4), event, checksum (4)
            size = int.from_bytes(data[i : i + 8], "little")
            yield Event.FromString(data[i + 12 : i + 12 + size])
            i += 16 + size
