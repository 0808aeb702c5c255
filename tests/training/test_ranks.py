"""Two processes with half of each batch end where one process with the whole batch does.

A VQ-VAE in double precision to the last digits, and in single precision, as runs have it, within what rounding makes of
it. Codebooks that start and restart from random rows are the same on all ranks to the last bit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from utils.test_dist import free_port, mpiexec

ROOT = Path(__file__).parents[2]
STEPS = 20
TOLERANCE = 1e-5
SINGLE = 1e-3  # of the weights of a VQ-VAE in single precision: measured are 1e-5 to 5e-5
MOVED = 2e-2  # of its codebooks: a code that rounding gives another place moves a sum by a hundredth of its vector

PROGRAM = f"""
import sys
import torch
from jukebox.training.checkpoint import averaged_state
from jukebox.training.step import evaluate, make_training, train_step
from jukebox.utils.dist_utils import setup_dist_from_mpi, shutdown, failing_together
from jukebox.utils.files import save_torch
from jukebox.utils.launch import leave_job, read_launch
from tiny_training import CPU, TinyData, sound, tiny_hps, tiny_model

path, port, kind, accumulate = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
prior, ranks, revive = not kind.startswith("vqvae"), read_launch().size, kind == "vqvae, revived"
if kind == "vqvae":
    # In double precision: batches of 2 and of 4 are summed in another order, and within 20 steps Adam and codes that
    # change their place make 1e-5 to 5e-5 of that rounding in single precision, by the kind of processor.
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
sharded = kind == "fsdp"
hps = tiny_hps(prior=prior, bs=4 // ranks, revival_threshold=float(revive), lr=0.003, mu=0.9, eps=1e-5,
               iters_before_update=accumulate, ema_fused=False, fsdp=sharded, c_res=int(sharded))
hps.bandwidth = dict(l1=0.25, l2=0.1, spec=30.0)
torch.manual_seed(0)
model = tiny_model(hps)  # before the ranks meet, so that each begins the codebooks alike
if not prior and not revive:
    model.train()
    with torch.no_grad():
        model(sound(8, 1), hps, loss_fn="l2")
rank, _, _ = setup_dist_from_mpi(port=port, device="cpu")
with failing_together():
    if rank == 1:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()  # it is rank 0's weights that count
    training = make_training(model, hps, CPU)
    data = TinyData(hps, batches={STEPS} * accumulate, rank=rank, ranks=ranks)
    losses, used = [], []
    batches = iter(data.train_loader)
    for step in range({STEPS}):
        metrics = train_step(training, [next(batches) for _ in range(accumulate)])
        losses.append([metrics["loss"], metrics["grad_norm"]])
        used.append(metrics.get("usage", 0.0))
    batches = [sound(4, 50 + i)[rank::ranks] for i in range(2)]
    held_out = evaluate(model, training.average, batches, training.options, CPU)
    if revive:
        save_torch(dict(codebook=model.state_extra(), model=model.state_dict(), used=used), path + f"_{{rank}}")
    if training.shards is not None:
        average = training.shards.merged_state(training.average)
        weights = training.shards.merged_state(None)
        with training.shards.gathered():
            sampled = model.sample(2)
        assert sampled.shape == (2, hps.n_ctx)
    else:
        weights, average = model.state_dict(), averaged_state(model, training.average)
    if rank == (0 if training.shards is not None else ranks - 1):
        extra = dict(codebook=model.state_extra()) if not prior else {{}}
        save_torch(dict(model=weights, average=average, losses=losses,
                        held_out=held_out, **extra), path)
shutdown()
leave_job()
"""


def _run(path: Path, ranks: int, *words: str) -> Any:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    launcher = [mpiexec(), "-n", str(ranks)] if ranks > 1 else []
    done = subprocess.run(
        [*launcher, sys.executable, "-c", PROGRAM, str(path), free_port(), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Grad strides do not match" not in done.stderr
    return torch.load(path, weights_only=True)


def _close(a: Any, b: Any, where: str, tolerance: float) -> None:
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text: f"{where}: {text}")
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            in_codebook = tolerance == SINGLE and str(key).startswith(("bottleneck.", "k_"))
            _close(a[key], b[key], f"{where}/{key}", MOVED if in_codebook else tolerance)
    elif isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _close(x, y, f"{where}/{i}", tolerance)
    elif isinstance(a, float):
        assert b == pytest.approx(a, rel=tolerance, abs=tolerance), where
    else:
        assert a == b, where


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "accumulate"),
    [("vqvae", "1"), ("vqvae, float32", "1"), ("prior", "1"), ("prior", "2"), ("fsdp", "1"), ("fsdp", "2")],
)
def test_two_ranks_equal_one(kind: str, accumulate: str, tmp_path: Path) -> None:
    one = _run(tmp_path / "one", 1, kind, accumulate)
    two = _run(tmp_path / "two", 2, kind, accumulate)
    for part in ("model", "average", "codebook", "held_out"):
        if part in one:
            _close(one[part], two[part], part, SINGLE if kind == "vqvae, float32" else TOLERANCE)
    assert one["losses"][-1] != one["losses"][0]
    norms = [[row[1] for row in run["losses"]] for run in (one, two)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)  # a norm of all ranks' gradients, not of its own


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_codebooks_that_restart_are_the_same_on_all_ranks(ranks: int, tmp_path: Path) -> None:
    """They begin and revive with random rows, and each rank has other rows to draw from."""
    _run(tmp_path / "run", ranks, "vqvae, revived", "1")
    first, *others = (torch.load(f"{tmp_path / 'run'}_{rank}", weights_only=True) for rank in range(ranks))
    assert min(first["used"]) < 16 and len(set(first["used"])) > 1  # some were revived
    for other in others:
        for one, two in zip(first["codebook"], other["codebook"], strict=True):
            assert all(torch.equal(one[name], two[name]) for name in ("k_sum", "k_elem"))
        for name, value in first["model"].items():
            assert torch.equal(value, other["model"][name]), name
