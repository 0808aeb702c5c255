"""Speed and memory of training a prior on one GPU: time of a step, peak memory and model FLOP utilisation.

    python benchmarks/training.py [--bs=8] [--steps=10] [--only=bf16]

The model is `small_prior` at its real sizes, on made-up codes, through the very step that `train.py` runs: forward,
backward with recomputed layers, gradient norm, optimizer and weight average. Utilisation is what the model's arithmetic
would take at the speed of a large matrix product, measured on the same card in the same call, over what the step took.
Only pairs of positions that attention sees are counted, and nothing that is computed a second time. Without a GPU there
is nothing to measure, and one line says so.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from common import save

SETS = {
    "bf16": ("small_vqvae,small_prior", dict(bf16=True)),
    "fp16": ("small_vqvae,small_prior,all_fp16,cpu_ema", dict(bf16=False)),
}
LEVEL = dict(prior=True, levels=2, level=1, sample_length=2097152, labels=False, train=True, restore_vqvae="")
PEAK_SIZE = 8192  # rows and columns of the matrices that the peak is measured with
BACKWARD = 2  # a backward pass is two products where the forward pass is one


def make_hps(kind: str, bs: int, **more: Any) -> Any:
    """Hyper-parameters of a row."""
    from jukebox.hparams import setup_hparams

    sets, values = SETS[kind]
    return setup_hparams(sets, {**LEVEL, **values, "bs": bs, "name": "benchmark", **more})


def visible_pairs(pattern: Any) -> int:
    """Pairs of a query and a key that it sees, in one context."""
    import torch

    keys = torch.arange(pattern.n_ctx)
    return sum(int(pattern.visible(queries[:, None], keys[None]).sum()) for queries in keys.split(1024))


def step_flops(prior: Any, bs: int) -> float:
    """Floating point operations of one training step, a multiplication and its addition counted as two.

    Args:
        prior: a prior without labels at the top level; it may be on the meta device.
        bs: items of the batch.
    """
    from jukebox.transformer.ops import Conv1D

    car, n_ctx = prior.prior, prior.n_ctx
    weights = sum(m.w.numel() for m in car.transformer.modules() if isinstance(m, Conv1D)) + car.x_out.weight.numel()
    pairs: dict[Any, int] = {}
    attention = 0
    for layer in car.transformer.layers:
        pattern = layer.attn.pattern
        if pattern not in pairs:
            pairs[pattern] = visible_pairs(pattern)
        attention += 2 * layer.attn.n_state * pairs[pattern]  # products of queries and keys, and of weights and values
    return float((1 + BACKWARD) * 2 * bs * (n_ctx * weights + attention))


def matmul_peak(dtype: Any) -> float:
    """FLOP per second of a large matrix product on this GPU: the quickest of some rounds."""
    import torch

    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device="cuda", dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            a @ b
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / 10)
    return 2 * PEAK_SIZE**3 / min(seconds)


def make_step(hps: Any, device: Any) -> tuple[Any, Any]:
    """A prior, and a function that trains it by one step on made-up codes."""
    import torch

    from jukebox.hparams import Hyperparams
    from jukebox.make_models import make_prior, make_vqvae
    from jukebox.training.codes import PackedCodes
    from jukebox.training.step import make_training, train_step

    torch.manual_seed(0)
    vqvae = make_vqvae(Hyperparams(hps), device)
    prior = make_prior(Hyperparams(hps), vqvae, device)
    prior.use_encoder(PackedCodes(vqvae.hop_lengths[hps.level :], hps.sample_length, hps.level, vqvae.encode))
    training = make_training(prior, hps, device)
    codes = torch.randint(0, hps.l_bins, (hps.bs, hps.n_ctx))
    return prior, lambda: train_step(training, [codes])


def measure(kind: str, bs: int, steps: int) -> dict[str, float]:
    """One row: seconds of a step, peak memory in GiB, TFLOP/s and utilisation."""
    import torch

    device = torch.device("cuda")
    prior, step = make_step(make_hps(kind, bs), device)
    for _ in range(3):
        step()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        torch.cuda.synchronize()
        start = time.perf_counter()
        metrics = step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() / 2**30
    median, flops = statistics.median(seconds), step_flops(prior, bs)
    peak = matmul_peak(torch.bfloat16 if kind == "bf16" else torch.float16)
    return {
        "step_seconds": median,
        "min": min(seconds),
        "max": max(seconds),
        "peak_gib": memory,
        "model_tflop": flops / 1e12,
        "peak_tflop_per_s": peak / 1e12,
        "utilisation": flops / median / peak,
        "loss": metrics["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", default="", help="part of the names of the rows to run")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("training.py measures training on a GPU, and PyTorch finds none here: run it where there is one")
        return
    results: dict[str, Any] = {}
    for kind in SETS:
        if options.only not in kind:
            continue
        row = results[f"small_prior {kind} batch {options.bs}"] = measure(kind, options.bs, options.steps)
        print(
            f"small_prior, batch {options.bs}, {kind}: {row['step_seconds'] * 1000:.1f} ms a step "
            f"({row['min'] * 1000:.1f} to {row['max'] * 1000:.1f}), peak memory {row['peak_gib']:.2f} GiB, "
            f"{row['utilisation']:.1%} of {row['peak_tflop_per_s']:.0f} TFLOP/s"
        )
        torch.cuda.empty_cache()
    if results and not options.only:
        save("training", results)


if __name__ == "__main__":
    main()
