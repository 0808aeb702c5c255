"""Losses of 50 steps from a fixed start on fixed batches, and the script that records them.

    python tests/training/record_losses.py

Start and batches come from numpy's generator, whose numbers are the same on every machine. What remains are roundings:
kernels and thread counts add in other orders. So the script also trains from starts that are perturbed by one part in a
million, some eight times the rounding of float32, and records how far their losses stray. The tolerance of the test is
chosen above that and far below what a mistake does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0:1] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np
import torch
from tiny_training import CPU, T, tiny_hps

from jukebox.make_models import make_prior, make_vqvae
from jukebox.training.step import make_training, train_step

PATH = Path(__file__).parent / "data" / "losses_fp32.json"
STEPS = 50
EARLY = 5  # steps before a code that changes for another one makes runs of a VQ-VAE part
PERTURBED = 1e-6
KINDS: dict[str, dict[str, Any]] = {
    "vqvae": dict(lr=0.003, revival_threshold=0.0),
    "prior": dict(prior=True, lr=0.003, mu=0.9, weight_decay=0.01),
}


def numbers(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def batch(i: int) -> torch.Tensor:
    """Batch i: four chunks of gliding tones, from sines of float64 on a grid of 2^-15, [4, T, 1]."""
    rng = np.random.default_rng([1, i])
    pitch, glide = 80 + 400 * rng.random((4, 1)), rng.random((4, 1))
    t = np.arange(T) / 4000
    x = 0.4 * np.sin(2 * np.pi * pitch * t * (1 + glide * t)) + 0.02 * rng.standard_normal((4, T))
    return torch.from_numpy(np.round(x * 2**15) / 2**15).float()[..., None]


def fill(model: torch.nn.Module, seed: int) -> None:
    """Weights of two axes and more from numpy, by their fan-in; biases zero; scales of norms stay one."""
    rng = np.random.default_rng([2, seed])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", ".b")):
                parameter.zero_()
            elif parameter.dim() > 1:
                fan_in = max(parameter.shape[0], parameter[0].numel())
                parameter.copy_((numbers(rng, *parameter.shape) * fan_in**-0.5).to(parameter.dtype))


def losses(kind: str, perturbed: int = 0, **values: Any) -> list[float]:
    """The losses of 50 steps.

    Args:
        kind: of KINDS.
        perturbed: number of a perturbation of the start; 0: none.
        values: hyper-parameters, such as the precision.
    """
    hps = tiny_hps(**{**KINDS[kind], "bs": 4, "lr_warmup": 5, **values})
    hps.bandwidth = dict(l1=0.25, l2=0.1, spec=30.0)
    vqvae = make_vqvae(tiny_hps(**{**KINDS[kind], "prior": False, "bs": 4, "train": True}), CPU)
    fill(vqvae, 0)
    rng = np.random.default_rng(3)
    for block in vqvae.bottleneck.blocks:
        block.k.copy_(numbers(rng, *block.k.shape) * 0.3)
        block.restore_k()
    model: Any = vqvae
    if hps.prior:
        vqvae.eval().requires_grad_(False)
        model = make_prior(hps, vqvae, CPU)
        fill(model, 1)
    if perturbed:
        rng = np.random.default_rng([4, perturbed])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + PERTURBED * numbers(rng, *parameter.shape).to(parameter.dtype))
    training = make_training(model, hps, CPU)
    return [train_step(training, [batch(i)])["loss"] for i in range(STEPS)]


def largest_deviation(one: list[float], two: list[float]) -> float:
    """Largest relative difference of two runs' losses."""
    return max(abs(a - b) / abs(a) for a, b in zip(one, two, strict=True))


def record() -> dict[str, Any]:
    found = {}
    for kind in KINDS:
        own = losses(kind)
        others = [losses(kind, perturbed) for perturbed in range(1, 6)]
        found[kind] = {
            "losses": own,
            "stray": max(largest_deviation(own, other) for other in others),
            "stray_early": max(largest_deviation(own[:EARLY], other[:EARLY]) for other in others),
        }
    return found


if __name__ == "__main__":
    text = record()
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps({"perturbed_by": PERTURBED, **text}, indent=1) + "\n", encoding="utf-8")
    for kind, entry in text.items():
        print(
            kind,
            "first",
            entry["losses"][0],
            "last",
            entry["losses"][-1],
            "stray",
            entry["stray"],
            "early",
            entry["stray_early"],
        )
