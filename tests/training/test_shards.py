"""Sharded training: a VQ-VAE, and half weights with half optimizer state, also saved and joined into whole ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from utils.test_dist import free_port, mpiexec

from jukebox.utils.files import load_torch

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json
import sys
import torch
from jukebox.make_models import load_checkpoint
from jukebox.training.checkpoint import averaged_state, restore_training, run_files, save_training
from jukebox.training.saved_shards import MOMENTS
from jukebox.training.step import evaluate, make_training, train_step
from jukebox.utils.dist_utils import failing_together, gather_objects, setup_dist_from_mpi, shutdown
from jukebox.utils.files import save_torch
from jukebox.utils.launch import leave_job, read_launch
from tiny_training import CPU, TinyData, sound, tiny_hps, tiny_model

path, port, given = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
steps, folder, resume = given.pop("steps"), given.pop("folder", ""), given.pop("resume", False)
if given.pop("double", False):  # see test_ranks.py
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
ranks = read_launch().size
hps = tiny_hps(bs=4 // ranks, revival_threshold=0.0, mu=0.9, ema_fused=False, fsdp=True,
               local_logdir=folder or "logs", **given)
hps.bandwidth = dict(l1=0.25, l2=0.1, spec=30.0)
torch.manual_seed(0)
model = tiny_model(hps)  # before the ranks meet, so that each begins the codebooks alike
if not hps.prior:
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
    batches = iter(TinyData(hps, batches=steps * hps.iters_before_update, rank=rank, ranks=ranks).train_loader)
    losses, norms, overflows, whole_moments = [], [], 0, {}
    for _ in range(steps):
        metrics = train_step(training, [next(batches) for _ in range(hps.iters_before_update)])
        losses.append(sum(gather_objects(metrics["loss"])) / ranks)
        norms.append(metrics["grad_norm"])
        overflows += metrics["overflow"]
    batches = [sound(4, 50 + i)[rank::ranks] for i in range(2)]
    held_out = evaluate(model, training.average, batches, training.options, CPU)
    overflow = []
    if hps.fp16 and not folder:
        scale, before = training.scaler.scale, [p.detach().clone() for p in training.parameters]
        training.scaler.scale = scale if rank else 2.0**60  # more than half numbers hold, on one process alone
        metrics = train_step(training, [sound(4, 99)[rank::ranks]])
        same = all(torch.equal(a, b) for a, b in zip(before, training.parameters))
        overflow = gather_objects([metrics["overflow"], same])
        training.scaler.scale = scale
    parts = {name: [str(p.dtype), p.numel()] for name, p in training.named_parameters()}
    moments = sorted({str(state["exp_avg"].dtype) for state in training.optimizer.state.values()})
    if resume:
        restore_training(training, load_checkpoint(run_files(hps).latest), run_files(hps).folder)
    elif folder:
        for part in training.parameters:
            for moment in MOMENTS:
                if "scale_" + moment in training.optimizer.state[part]:
                    training.optimizer.state[part]["scale_" + moment].fill_(10.0**rank)  # as different as can be
        save_training(training, run_files(hps), dict(hps=dict(hps), command=""), {})
    for i, (name, part) in enumerate(training.named_parameters() if folder else ()):
        state = training.optimizer.state[part]
        whole_moments[name] = {m: state.get(m, part.detach()).float() * state.get("scale_" + m, 1.0) for m in MOMENTS}
        if training.shards is not None:
            like = training.shards.whole[i]
            whole_moments[name] = {m: training.shards.spread(x, like).full_tensor()
                                   for m, x in whole_moments[name].items()}
    if training.shards is not None:
        average, weights = training.shards.merged_state(training.average), training.shards.merged_state(None)
    else:
        weights, average = model.state_dict(), averaged_state(model, training.average)
    if rank == 0:
        extra = dict(codebook=model.state_extra()) if not hps.prior else {}
        save_torch(dict(model=weights, average=average, losses=losses, norms=norms, held_out=held_out, parts=parts,
                        moments=moments, whole_moments=whole_moments, overflows=overflows, overflow=overflow,
                        scale=training.scaler.scale, **extra), path)
shutdown()
leave_job()
"""


def _run(path: Path, ranks: int, **values: Any) -> Any:
    launcher = [mpiexec(), "-n", str(ranks)] if ranks > 1 else []
    done = subprocess.run(
        [*launcher, sys.executable, "-c", PROGRAM, str(path), free_port(), json.dumps(values)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(path, weights_only=True)


HALF = dict(prior=True, fp16=True, fp16_params=True, fp16_opt=True, fp16_scale_window=20.0, c_res=1)


@pytest.mark.slow
def test_a_sharded_vqvae_equals_a_whole_one(tmp_path: Path) -> None:
    """Two processes with half of each batch and half of each weight, against one: codebooks and averages too."""
    one, two = (_run(tmp_path / str(ranks), ranks, steps=20, lr=0.003, double=True) for ranks in (1, 2))
    for part in ("model", "average"):
        assert list(one[part]) == list(two[part])
        for key, value in one[part].items():
            torch.testing.assert_close(two[part][key], value, rtol=1e-5, atol=1e-5, msg=f"{part}/{key}")
    for a, b in zip(one["codebook"], two["codebook"], strict=True):
        for key in ("k_sum", "k_elem"):
            torch.testing.assert_close(b[key], a[key], rtol=1e-5, atol=1e-5)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-5)
    assert two["held_out"] == pytest.approx(one["held_out"], rel=1e-5)
    whole, parts = (sum(size for _, size in run["parts"].values()) for run in (one, two))
    assert parts < 0.51 * whole


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_sharded_half_weights_follow_whole_ones(accumulate: int, tmp_path: Path) -> None:
    """The whole recipe of all_fp16 on two processes: losses within 0.1 % of those of one, weights within 0.002."""
    # A larger epsilon: where gradients are nothing but rounding, Adam would divide that by its own size.
    values = dict(HALF, steps=20, lr=0.003, eps=1e-4, iters_before_update=accumulate, init_scale=0.2)
    one, two = (_run(tmp_path / str(ranks), ranks, **values) for ranks in (1, 2))
    assert two["parts"].keys() == one["parts"].keys()
    kinds = {name: kind for name, (kind, _) in one["parts"].items()}
    assert {name: kind for name, (kind, _) in two["parts"].items()} == kinds
    halves = [name for name, kind in kinds.items() if kind == "torch.float16"]
    assert len(halves) == 8 and all(2 * two["parts"][name][1] == one["parts"][name][1] for name in halves)
    assert two["moments"] == one["moments"] == ["torch.float16", "torch.float32"]
    assert two["overflows"] == one["overflows"] == 0 and two["scale"] == one["scale"] == pytest.approx(2.0**17)
    assert two["overflow"] == [[1.0, True]] * 2 and one["overflow"] == [[1.0, True]]
    assert two["losses"] == pytest.approx(one["losses"], rel=0.001)
    assert two["losses"][0] == pytest.approx(one["losses"][0], rel=1e-4)
    assert two["norms"][:3] == pytest.approx(one["norms"][:3], rel=0.001)
    assert two["held_out"] == pytest.approx(one["held_out"], rel=0.001)
    for part in ("model", "average"):
        for key, value in one[part].items():
            assert two[part][key].dtype == value.dtype
            torch.testing.assert_close(two[part][key].float(), value.float(), rtol=0, atol=0.002, msg=f"{part}/{key}")


@pytest.mark.slow
def test_half_moments_mean_the_same_on_any_number_of_processes(tmp_path: Path) -> None:
    """Each process has multipliers of its own for its half moments; others that resume take them over or join them."""
    values = dict(HALF, prior_width=20, folder=str(tmp_path / "logs"))  # 20 rows: 7, 7 and 6 on three processes
    written = _run(tmp_path / "three", 3, steps=3, **values)
    checkpoint = load_torch(tmp_path / "logs/tiny/checkpoint_latest.pth.tar")
    halves = [name for name, (kind, _) in written["parts"].items() if kind == "torch.float16"]
    assert sorted(checkpoint["shards"]["scales"]) == sorted(halves)
    assert all(v["exp_avg_sq"] == [1.0, 10.0, 100.0] for v in checkpoint["shards"]["scales"].values())
    for ranks in (1, 2, 3):
        read = _run(tmp_path / str(ranks), ranks, steps=0, resume=True, **values)
        for name, moments in written["whole_moments"].items():
            for key, wanted in moments.items():
                found = read["whole_moments"][name][key]
                assert wanted.abs().max() > 0, (name, key)
                if name in halves and ranks < 3:
                    worst = 2**-11 * float(wanted.abs().max())
                    torch.testing.assert_close(found, wanted, rtol=2**-10, atol=worst, msg=f"{ranks}: {name} {key}")
                else:
                    assert torch.equal(found, wanted), (ranks, name, key)
