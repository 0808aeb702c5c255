"""--dry_run: what it counts is what a run allocates, and it allocates nothing itself."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_training import CPU, sound, tiny_hps, tiny_model

from jukebox.hparams import pick
from jukebox.training import planning
from jukebox.training import resolve as resolve_module
from jukebox.training.checks import check_training
from jukebox.training.resolve import resolve
from jukebox.training.step import forward, make_training, train_step
from jukebox.utils.errors import UserError

SCRIPT = str(Path(__file__).parents[2] / "jukebox" / "train.py")
KINDS: dict[str, dict[str, Any]] = {
    "vqvae": {},
    "prior": dict(prior=True, prior_width=64),
    "recomputed": dict(prior=True, prior_width=64, prior_depth=6, c_res=1),
    "fp16": dict(prior=True, prior_width=64, fp16=True, fp16_params=True, fp16_opt=True),
    "upsampler": dict(prior=True, level=0, n_ctx=64, cond_width=8, cond_depth=1, ema=False),
}


def tensors_bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_plan_is_what_a_run_holds(kind: str) -> None:
    hps = tiny_hps(**KINDS[kind])
    hps.bandwidth = dict(l1=0.25, l2=0.1, spec=30.0)
    model, vqvae = planning.build_without_memory(hps)
    assert all(p.is_meta for p in model.parameters())
    plan = planning.count(model, vqvae, pick(planning.PlanOptions, hps), 1, 0)
    training = make_training(tiny_model(hps), hps, CPU)
    assert tensors_bytes(training.parameters) == plan.weights == plan.gradients
    train_step(training, [sound(2, 0)])
    moments = [s[m] for s in training.optimizer.state.values() for m in ("exp_avg", "exp_avg_sq")]
    assert tensors_bytes(moments) == plan.optimizer
    averages = training.average.averages() if training.average else []
    assert tensors_bytes(averages) == plan.average
    # What autograd keeps in a real step, in tensors that are not weights.
    with planning.tiling.disabled(), planning.saved_bytes(training.model) as kept:
        forward(training.model, sound(2, 0), training.options, CPU)
        real = kept()
    planned = planning.count_activations(model, hps)
    if kind == "recomputed":  # the plan has one recomputed layer more, which lives only in the backward pass
        layer = planned - real
        assert 0 < layer < planning.count_activations(model, tiny_hps(**{**KINDS[kind], "c_res": 0})) / 3
    else:
        # A real step also keeps codes and losses; a VQ-VAE the spectra of its losses, which short windows make large.
        assert planned <= real * 1.01 and planned > real * (0.2 if kind == "vqvae" else 0.7)


@pytest.mark.parametrize("half", [False, True])
def test_sharding_divides_what_it_can(half: bool) -> None:
    hps = tiny_hps(prior=True, prior_width=64, prior_depth=8, fp16=half, fp16_params=half, fp16_opt=half)
    model, vqvae = planning.build_without_memory(hps)
    one, eight = (planning.count(model, vqvae, pick(planning.PlanOptions, hps), n, 1000) for n in (1, 8))
    for part in ("weights", "gradients", "optimizer", "average"):
        assert getattr(eight, part) == getattr(one, part) // 8
    assert one.gathered == 0 < eight.gathered < one.weights and eight.activations == one.activations


def test_freezing_saves_gradients_and_state() -> None:
    hps = tiny_hps(prior=True, prior_depth=4)
    few = tiny_hps(prior=True, prior_depth=4, finetune_layers="last_1")
    a, b = (planning.count(*planning.build_without_memory(h), pick(planning.PlanOptions, h), 1, 0) for h in (hps, few))
    assert a.weights == b.weights and b.gradients < a.gradients / 2 and b.optimizer == 2 * b.gradients


def test_host_memory_is_told_of_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.torch.cuda, "device_count", lambda: 0)
    hps = tiny_hps(prior=True, prior_width=512, prior_depth=16, cpu_ema=True, plan_ranks="1,4,16", dry_run=True)
    model, vqvae = planning.build_without_memory(hps)
    lines = planning.plan(hps)
    for n, sharded in ((1, False), (4, False), (4, True), (16, False), (16, True)):
        one = planning.count(model, vqvae, pick(planning.PlanOptions, hps), n if sharded else 1, 0).host / 2**30
        row = next(i for i, line in enumerate(lines) if line.split()[0] == str(n) and ("--fsdp" in line) == sharded)
        all_of_host = f", {min(n, 8) * one:.2f} on a host of {min(n, 8)} processes" if n > 1 else ""
        assert lines[row + 1] == f"     and {one:.2f} GiB of host memory for the average{all_of_host}"


def test_a_plan_needs_no_label_tables() -> None:
    sizes = dict(y_bins=[5, 5], max_bow_genre_size=1, t_bins=8, min_duration=1.0, max_duration=60.0)
    hps = tiny_hps(prior=True, labels=True, labels_v3=True, **sizes, plan_ranks="1", dry_run=True)
    assert planning.plan(tiny_hps(**{**hps, "labels_dir": "nowhere"})) == planning.plan(hps)


def test_a_gpu_of_some_size() -> None:
    hps = tiny_hps(prior=True, prior_width=64, prior_depth=16, plan_ranks="1,8", dry_run=True)
    model, vqvae = planning.build_without_memory(hps)
    activations = planning.count_activations(model, hps)
    alone, sharded = (
        planning.count(model, vqvae, pick(planning.PlanOptions, hps), n, activations).total for n in (1, 8)
    )
    between = (alone + sharded) / 2 / 0.9 / 2**30
    lines = planning.plan(tiny_hps(**{**hps, "plan_gb": between}))
    assert any(
        "1 rank of" in line and "does not fit; use a smaller --bs, --recompute=all, more ranks with --fsdp" in line
        for line in lines
    )
    assert any("8 ranks of" in line and line.endswith("needs --fsdp") for line in lines)
    lines = planning.plan(tiny_hps(**{**hps, "plan_gb": 80.0}))
    assert sum("--fsdp is not needed" in line for line in lines) == 2


def saved_and_losses(hps: Any) -> tuple[int, list[float]]:
    """Bytes that autograd keeps of a step, and the losses of three steps."""
    training = make_training(tiny_model(hps), hps, CPU)
    with planning.tiling.disabled(), planning.saved_bytes(training.model) as kept:
        forward(training.model, sound(2, 0), training.options, CPU)
        saved = kept()
    return saved, [train_step(training, [sound(2, seed)])["loss"] for seed in range(3)]


def test_all_and_none_have_equal_losses_and_differ_in_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = dict(prior=True, prior_width=64, prior_depth=6, train=True, resid_dropout=0.1, c_mlp=1)
    found = {how: saved_and_losses(resolve(tiny_hps(**given, recompute=how), CPU, {})) for how in ("", "all", "none")}
    assert found["all"][1] == found["none"][1] == found[""][1]
    assert found["all"][0] < found[""][0] < found["none"][0]
    assert capsys.readouterr().out == ""
    # auto: none as long as the whole plan fits
    hps = tiny_hps(**given, recompute="none")
    settings = resolve(hps, CPU, {})
    model, vqvae = planning.build_without_memory(settings)
    activations = planning.count_activations(model, settings)
    needs = planning.count(model, vqvae, pick(planning.PlanOptions, settings), 1, activations).total
    for memory, c_res, said in (
        (needs / 0.89, 0, "no layer is recomputed"),
        (needs / 0.91, 1, "layers are recomputed"),
    ):
        monkeypatch.setattr(resolve_module, "free_bytes", lambda device, memory=memory: int(memory))
        auto = resolve(tiny_hps(**given, recompute="auto"), CPU, {})
        assert (auto.c_res, auto.c_mlp) == (c_res, 1 if c_res else 0)
        assert f"recompute=auto: {said}, since" in capsys.readouterr().out
    plans = {
        how: planning.plan(tiny_hps(**given, recompute=how, plan_gb=needs / 0.91 / planning.GIB, plan_ranks="1"))
        for how in ("auto", "all")
    }
    assert plans["auto"][1].startswith("recompute=auto: layers are recomputed")
    assert plans["auto"][:1] + plans["auto"][2:] == plans["all"]


def test_recompute_is_checked() -> None:
    for given, said in (
        (dict(prior=True, recompute="some"), "recompute"),
        (dict(recompute="all"), "it is for a prior"),
    ):
        with pytest.raises(UserError, match=said):
            check_training(tiny_hps(**{**given, "name": "x", "train": True}))


def test_the_largest_prior_is_planned_in_seconds_and_little_memory(tmp_path: Path) -> None:
    words = "--hps=vqvae,prior_5b_lyrics,all_fp16,cpu_ema --prior --levels=3 --level=2 --labels=True"
    words += " --sample_length=1048576 --dry_run --plan_ranks=1,8 --plan_gb=40"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, SCRIPT, *words.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "prior of level 2: 5,640,506,800 parameters" in done.stdout
    assert "1 rank of 40 GiB: does not fit; use more ranks with --fsdp" in done.stdout
    assert "8 ranks of 40 GiB: needs --fsdp" in done.stdout
    assert not list(tmp_path.iterdir())
    assert used.ru_utime - before.ru_utime < 30
    assert used.ru_maxrss < 2**21  # KiB: a tenth of the weights would be more
