"""Speed and memory of the VQ-VAE on a CPU: encoding, decoding and a training step, tiled against the plain modules.

    python benchmarks/vqvae.py [--only=encode] [--pairs=3] [--seconds=20] [--threads=2]

The plain modules represent a straightforward implementation (one PyTorch operator after the other over whole
activations); the tiled path is what the package runs by itself (`jukebox/vqvae/cpu/tiling.py`). Weights are random, the
configurations those of the sets `vqvae` and `small_vqvae`. Figures are ratios of paired runs, see `common.py`; peak
memory is that of a fresh process which does nothing else, less one that only builds the model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from common import paired, parse_flags, peak_memory, save, show

SETTINGS = dict(bandwidth={"l1": 0.2, "l2": 0.07, "spec": 33.0})
TRAIN_BATCH, TRAIN_SAMPLES = 4, 65536
PATHS = ("plain", "tiled")
JOBS = ("encode", "decode0", "decode1", "decode2", "train")


def build(name: str, samples: int) -> tuple[Any, Any]:
    """A VQ-VAE of a named set with random weights and codebooks, and its hyper-parameters."""
    import torch

    from jukebox.hparams import Hyperparams, setup_hparams
    from jukebox.make_models import make_vqvae

    torch.manual_seed(0)
    hps = setup_hparams(name, dict(sample_length=samples, restore_vqvae=""))
    model = make_vqvae(hps, "cpu")
    for block in model.bottleneck.blocks:
        block.k.normal_()
    return model, Hyperparams(hps, **SETTINGS)


def path(name: str) -> Any:
    from jukebox.vqvae.cpu import tiling

    return tiling.disabled() if name == "plain" else nullcontext()


def make_job(job: str, samples: int) -> Callable[[], None]:
    """What one row measures: `encode`, `decode0`, `decode1`, `decode2` or `train`."""
    import torch

    if job == "train":
        model, hps = build("small_vqvae", TRAIN_SAMPLES)
        model.train().requires_grad_(True)
        x = torch.randn(TRAIN_BATCH, TRAIN_SAMPLES, 1) * 0.3

        def train() -> None:
            model.zero_grad()
            _, loss, _ = model(x, hps, hps.loss_fn)
            loss.backward()

        return train
    model, _ = build("vqvae", samples)
    x = torch.randn(1, samples, 1) * 0.3
    zs = [torch.randint(0, model.l_bins, (1, length)) for (length,) in model.z_shapes]

    @torch.no_grad()
    def code() -> None:
        if job == "encode":
            model.encode(x)
        else:
            level = int(job[-1])
            model.decode(zs[level:], start_level=level)

    return code


def measure_memory(job: str, samples: int, threads: int) -> dict[str, float]:
    """Peak GiB of each path above that of a process which builds the model and its inputs."""
    start = f"import sys, torch; sys.path.insert(0, 'benchmarks'); torch.set_num_threads({threads}); import vqvae; "
    start += f"run = vqvae.make_job({job!r}, {samples})\n"
    built = peak_memory(start)
    return {name: peak_memory(f"{start}with vqvae.path({name!r}): run()") - built for name in PATHS}


def measure(job: str, pairs: int, seconds: float) -> dict[str, Any]:
    """Times and peak memory of one job of JOBS, by both paths.

    Args:
        pairs: rounds that count; seconds: of audio.
    """
    import torch

    samples = int(seconds * 44100) // 128 * 128
    run = make_job(job, samples)

    def timed(name: str) -> None:
        with path(name):
            run()

    times = paired({name: lambda name=name: timed(name) for name in PATHS}, pairs)  # type: ignore[misc]
    return {"times": times, "peak_gib": measure_memory(job, samples, torch.get_num_threads()), "samples": samples}


def main() -> None:
    seconds = dict(type=float, default=20.0, help="of 44.1 kHz audio, for encoding and decoding")
    options = parse_flags(__doc__, pairs=dict(type=int, default=3), seconds=seconds)
    results: dict[str, Any] = {}
    for job in JOBS:
        if options.only not in job:
            continue
        results[job] = measure(job, options.pairs, options.seconds)
        title = f"small_vqvae, batch {TRAIN_BATCH} x {TRAIN_SAMPLES} samples" if job == "train" else "vqvae"
        show(f"{job}: {title}{'' if job == 'train' else f', {options.seconds:.1f} s of audio'}", results[job]["times"])
        memory = results[job]["peak_gib"]
        print("  peak memory, GiB:", ", ".join(f"{name} {value:.2f}" for name, value in memory.items()))
    if results and not options.only:
        save("vqvae", results)


if __name__ == "__main__":
    main()
