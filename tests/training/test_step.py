"""One step: accumulation, skipping, precision, and that it learns."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CPU, TinyData, sound, tiny_hps, tiny_model

from jukebox.data.data_processor import EpochBatches
from jukebox.training.step import Training, evaluate, make_training, train_step


def _training(**values: Any) -> tuple[Training, Any]:
    hps = tiny_hps(**values)
    return make_training(tiny_model(hps), hps, CPU), hps


def _weights(training: Training) -> list[torch.Tensor]:
    return [p.detach().clone() for p in training.parameters]


@pytest.mark.parametrize("prior", [False, True])
def test_it_learns_from_the_first_step_on(prior: bool) -> None:
    training, hps = _training(prior=prior, lr=0.003, lr_gamma=1.0)
    batch = sound(4, 7)
    before = _weights(training)
    first = train_step(training, [batch])
    assert any(not torch.equal(a, b) for a, b in zip(before, _weights(training), strict=True))
    assert first["lr"] == pytest.approx(0.0015) and first["grad_norm"] > 0 and first["skipped"] == 0
    for _ in range(20):
        last = train_step(training, [batch])
    assert last["loss"] < first["loss"] * 0.9
    assert training.step == 21


def test_accumulated_gradients_equal_one_big_batch() -> None:
    """Four batches of two, and one of eight: the same gradients, so the same weights after several steps."""
    big, hps = _training(prior=True)
    small = make_training(tiny_model(hps), hps, CPU)
    for step in range(5):
        batch = sound(8, step)
        one = train_step(big, [batch])
        four = train_step(small, list(batch.split(2)))
        assert four["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert four["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    for a, b in zip(_weights(big), _weights(small), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


class _Spoil(torch.autograd.Function):
    """The identity, with a gradient of any kind."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: float) -> torch.Tensor:
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return torch.full_like(grad, ctx.value), None


class Spoiled(torch.nn.Module):
    """A model whose loss or gradient goes wrong on request."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.loss_factor, self.gradient = 1.0, 0.0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out, loss, metrics = self.inner(*args, **kwargs)
        if self.gradient:
            loss = _Spoil.apply(loss, self.gradient)
        return out, loss * self.loss_factor, metrics


@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"fp16": True, "fp16_params": True, "fp16_opt": True}])
@pytest.mark.parametrize("wrong", [("loss_factor", math.inf), ("gradient", math.nan), ("gradient", math.inf)])
def test_what_is_not_finite_is_never_used(precision: dict[str, Any], wrong: tuple[str, float]) -> None:
    training, hps = _training(prior=True, **precision)
    spoiled = training.wrapped = Spoiled(training.model)
    train_step(training, [sound(2, 0)])
    weights, scale = _weights(training), training.scaler.scale
    average = [a.clone() for a in training.average.averages()]
    setattr(spoiled, *wrong)
    metrics = train_step(training, [sound(2, 1)])
    assert metrics["skipped"] == metrics["overflow"] == 1.0
    assert training.step == 2 and all(p.grad is None for p in training.parameters)
    assert all(torch.equal(a, b) for a, b in zip(weights, _weights(training), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(average, training.average.averages(), strict=True))
    assert training.scaler.scale == (scale / 2 if hps.fp16 else 1.0)
    spoiled.loss_factor, spoiled.gradient = 1.0, 0.0
    assert train_step(training, [sound(2, 1)])["skipped"] == 0.0


def test_a_batch_without_numbers_leaves_the_codebooks_alone() -> None:
    training, hps = _training()
    spoiled = sound(2, 1)
    spoiled[0, 100] = math.nan
    first = train_step(training, [spoiled])  # before there is any codebook
    assert first["skipped"] == 1.0 and not any(block.init for block in training.model.bottleneck.blocks)
    train_step(training, [sound(2, 0)])
    before = copy.deepcopy(training.model.state_extra()), copy.deepcopy(training.model.state_dict())
    assert train_step(training, [spoiled])["skipped"] == 1.0
    after = training.model.state_extra(), training.model.state_dict()
    for one, two in zip(before[0], after[0], strict=True):
        assert torch.equal(one["k_sum"], two["k_sum"]) and torch.equal(one["k_elem"], two["k_elem"])
    assert all(torch.equal(value, after[1][key]) for key, value in before[1].items())
    assert math.isfinite(train_step(training, [sound(2, 2)])["loss"])


def test_ignore_grad_norm_skips_outliers() -> None:
    training, hps = _training(prior=True)
    norm = train_step(training, [sound(2, 0)])["grad_norm"]
    training.options = replace(training.options, ignore_grad_norm=1)
    assert norm < 1 and train_step(training, [sound(2, 0)])["skipped"] == 0.0
    spoiled = training.wrapped = Spoiled(training.model)
    spoiled.loss_factor = 4.0 / norm
    weights = _weights(training)
    metrics = train_step(training, [sound(2, 0)])
    assert metrics["grad_norm"] > 1 and metrics["skipped"] == 1.0 and metrics["overflow"] == 0.0
    assert all(torch.equal(a, b) for a, b in zip(weights, _weights(training), strict=True))


def test_precisions_stay_together() -> None:
    """Ten steps from the same start: fp16 and bf16 follow fp32 within 2 %."""
    losses = {}
    for name, values in {
        "fp32": {},
        "bf16": dict(bf16=True),
        "fp16": dict(fp16=True, fp16_params=True, fp16_opt=True, fp16_scale_window=250),
    }.items():
        training, hps = _training(prior=True, lr=0.003, **values)
        losses[name] = [train_step(training, [batch])["loss"] for batch in TinyData(hps, batches=10).train_loader]
    assert losses["fp32"][-1] < losses["fp32"][0]
    for name in ("bf16", "fp16"):
        assert losses[name] == pytest.approx(losses["fp32"], rel=0.02)
        assert losses[name] != losses["fp32"]  # the switch does something


def test_codes_do_not_depend_on_the_precision() -> None:
    """A prior must learn the codes that sampling will decode: bfloat16 encoders would choose others."""
    hps = tiny_hps(prior=True, level=0, n_ctx=64, l_bins=64)
    prior, x = tiny_model(hps), sound(8, 3)
    codes = prior.encode(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(codes, prior.encode(x), strict=True))


def test_half_weights_are_half_and_the_others_not() -> None:
    training, _ = _training(prior=True, fp16=True, fp16_params=True, fp16_opt=True)
    kinds = {name.rpartition(".")[2]: p.dtype for name, p in training.model.named_parameters() if "attn" in name}
    assert kinds["w"] == torch.float16 and kinds["b"] == torch.float32


def test_steps_draw_from_their_own_seed() -> None:
    """Dropout of step 2 is the same, whatever was drawn before it."""
    one, hps = _training(prior=True, resid_dropout=0.5)
    train_step(one, [sound(2, 0)])
    two = copy.deepcopy(one)
    torch.manual_seed(99)
    torch.rand(1000)
    a = train_step(one, [sound(2, 1)])
    torch.manual_seed(5)
    b = train_step(two, [sound(2, 1)])
    assert a == b
    assert a["loss"] != train_step(copy.deepcopy(two), [sound(2, 1)])["loss"]


@pytest.mark.parametrize("prior", [False, True])
def test_evaluation_uses_the_average_and_changes_nothing(prior: bool) -> None:
    training, hps = _training(prior=prior, mu=0.5)
    data = TinyData(hps)
    fresh = evaluate(training.model, None, data.test_loader, training.options, CPU)
    for batch in data.train_loader:
        train_step(training, [batch])
    weights = _weights(training)
    state = copy.deepcopy(training.model.state_dict())
    averaged = evaluate(training.model, training.average, data.test_loader, training.options, CPU)
    raw = evaluate(training.model, None, data.test_loader, training.options, CPU)
    assert len({averaged["loss"], raw["loss"], fresh["loss"]}) == 3
    assert all(torch.equal(a, b) for a, b in zip(weights, _weights(training), strict=True))
    assert all(torch.equal(a, state[k]) for k, a in training.model.state_dict().items())
    assert training.model.training
    assert evaluate(training.model, None, [], training.options, CPU) == {}


@pytest.mark.parametrize("values", [{}, dict(prior=True)])
def test_the_held_out_loss_depends_on_no_batch_size_and_no_number_of_ranks(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    training, hps = _training(mu=0.5, **values)
    train_step(training, [sound(4, 0)])
    held_out = torch.cat([sound(1, 50 + i) * (1 + i) / 7 for i in range(7)])  # items that are worth different losses

    def loss(bs: int, ranks: int) -> dict[str, float]:
        parts: list[Any] = []
        monkeypatch.setattr("jukebox.training.step.gather_objects", lambda part: parts.append(part) or parts)
        for rank in range(ranks):  # the last of them has everybody's part
            sampler = EpochBatches(7, bs, rank, ranks, shuffle=False)
            batches = [held_out[[item for _, item in keys]] for keys in sampler]
            found = evaluate(training.model, training.average, batches, training.options, CPU, sampler.counts())
        return found

    whole = loss(7, 1)
    for bs in (1, 2, 3, 5, 7):
        for ranks in (1, 2, 3, 5, 8):
            assert loss(bs, ranks) == pytest.approx(whole, rel=1e-5), (bs, ranks)


def test_an_evaluation_can_be_ended() -> None:
    training, hps = _training()
    asked: list[int] = []
    stop = lambda: asked.append(1) or len(asked) > 2  # noqa: E731
    batches = [sound(2, i) for i in range(5)]
    assert evaluate(training.model, None, batches, training.options, CPU, stop=stop) == {} and len(asked) == 3
    assert training.model.training


def test_stereo_is_blended() -> None:
    training, hps = _training(prior=False, aug_blend=True)
    metrics = train_step(training, [sound(2, 0, channels=2)])
    assert math.isfinite(metrics["loss"])


@pytest.mark.parametrize("values", [{}, dict(fp16=True, fp16_params=True, fp16_opt=True)])
def test_the_fused_optimizer_trains_the_same(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """apex FusedAdam, which moves the average in its own pass, against the plain optimizer."""
    monkeypatch.setitem(sys.modules, "apex.optimizers", None)  # as if it were not installed
    plain, hps = _training(prior=True, mu=0.9, **values)
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "apex"))
    fused, _ = _training(prior=True, mu=0.9, **values)
    assert plain.optimizer_name.startswith("Adam") and fused.optimizer_name.startswith("apex FusedAdam")
    assert fused.averages_itself and not plain.averages_itself
    for batch in TinyData(hps, batches=6).train_loader:
        one, two = (train_step(training, [batch]) for training in (plain, fused))
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-3 if values else 1e-5)
    for a, b in zip(plain.average.averages(), fused.average.averages(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3 if values else 1e-5)
    state = plain.optimizer.state_dict()
    fused.optimizer.load_state_dict(state)  # a run may resume with the other one
    for before, after in zip(state["state"].values(), fused.optimizer.state_dict()["state"].values(), strict=True):
        assert before.keys() == after.keys() and torch.equal(before["exp_avg"], after["exp_avg"])
