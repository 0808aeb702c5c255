"""The training benchmark: what it counts, that its step trains, and what it says where there is no GPU."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CPU, tiny_hps

from jukebox.hparams import Hyperparams
from jukebox.make_models import build_prior, make_vqvae

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    sys.path.insert(0, str(SCRIPT.parent))  # for `common`
    try:
        spec = importlib.util.spec_from_file_location("training_benchmark", SCRIPT)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def on_meta(hps: Hyperparams) -> Any:
    with torch.device("meta"):
        return build_prior(Hyperparams(hps), make_vqvae(Hyperparams(hps), "meta"))


def test_the_arithmetic_of_small_prior(benchmark: Any) -> None:
    """By hand: 48 layers of 1024, attention of 256 in turn over blocks, columns and the block before, 64 by 128."""
    found = benchmark.step_flops(on_meta(benchmark.make_hps("bf16", 8)), 8)
    weights = 48 * (1024 * 3 * 256 + 256 * 1024 + 2 * 1024 * 1024) + 1024 * 1024
    rows, columns, before = 64 * (128 * 129 // 2), 128 * (64 * 65 // 2), 63 * 128 * 128
    assert found == 3 * 2 * 8 * (8192 * weights + 2 * 256 * 16 * (rows + columns + before))
    assert found == benchmark.step_flops(on_meta(benchmark.make_hps("fp16", 8)), 8)


def test_it_counts_no_more_than_is_computed(benchmark: Any) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    hps = tiny_hps(prior=True, attn_order=0, blocks=None, prior_width=64)
    prior, step = benchmark.make_step(hps, CPU)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # not all others are counted
        step()
    found, counted = benchmark.step_flops(prior, hps.bs), counter.get_total_flops()
    assert 0.97 * counted < found < counted  # the products of all pairs are computed, half of which are seen


def test_its_step_trains(benchmark: Any) -> None:
    hps = tiny_hps(prior=True, mu=0.9)
    prior, step = benchmark.make_step(hps, CPU)
    losses = [step()["loss"] for _ in range(10)]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stderr == ""  # `make bench` continues
    assert done.stdout.count("\n") == 1 and "run it where there is one" in done.stdout
