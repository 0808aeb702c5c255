"""Golden cases of the optimizer, the schedules, the weight averages and the loss scale."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from golden_cases.checks import (
    GRAD_NORM,
    OPTIMIZER,
    OPTIMIZER_HALF,
    SCHEDULE,
    Check,
    Tolerance,
    case,
)
from jukebox.hparams import pick
from jukebox.training.ema import CPUEMA, EMA, FusedEMA, default_mu
from jukebox.training.optim import Adam
from jukebox.training.scaler import LossScaler, clip_scale, gradient_norm, is_fit, make_scaler
from jukebox.training.schedule import Schedule, ScheduleOptions, learning_rate

SCALED_HALF = Tolerance(0.0, 1e-3, scaled=True)  # half moments, which are far below 1e-3 themselves
RELATIVE_HALF = Tolerance(0.0, 1e-3)  # multipliers of half moments: a share of 1e-6 would pass anything


def _tolerance(parameter: torch.Tensor) -> Tolerance:
    return OPTIMIZER if parameter.dtype == torch.float32 else OPTIMIZER_HALF


def _parameters(values: list[torch.Tensor]) -> list[nn.Parameter]:
    return [nn.Parameter(value.clone()) for value in values]


@case("optim_adam*", "optim_fp16adam*")
def adam(data: dict[str, Any], check: Check) -> None:
    hps = data["hps"]
    params = _parameters(data["inputs"]["params"])
    optimizer = Adam(
        params,
        lr=hps["lr"],
        betas=(hps["beta1"], hps["beta2"]),
        eps=hps["eps"],
        weight_decay=hps["wd"],
        half_state=hps["cls"] == "FP16FusedAdam",
    )
    run_adam(optimizer, params, data, check)
    for i, (parameter, expected) in enumerate(zip(params, data["outputs"]["final_state"], strict=True)):
        state = optimizer.state[parameter]
        check.equal(f"state {i} keys", sorted(state), sorted(expected))
        check.equal(f"state {i} step", state["step"], expected["step"])
        for name in ("exp_avg", "exp_avg_sq"):
            check.equal(f"state {i} {name} type", str(state[name].dtype), str(expected[name].dtype))
            if f"scale_{name}" in expected:
                scale, wanted = state[f"scale_{name}"], expected[f"scale_{name}"]
                check.close(f"state {i} scale_{name}", scale, wanted, RELATIVE_HALF)
                ours, theirs = state[name].float() * scale, expected[name].float() * wanted
                check.close(f"state {i} {name}", ours, theirs, SCALED_HALF)
            else:
                check.close(f"state {i} {name}", state[name], expected[name], OPTIMIZER)


def run_adam(optimizer: Any, params: list[nn.Parameter], data: dict[str, Any], check: Check) -> None:
    """The recorded steps of a case, for any optimizer whose `step` takes `scale`."""
    clip = data["hps"]["clip"] or 0.0
    for i, step in enumerate(data["outputs"]["steps"]):
        for parameter, grad in zip(params, step["grads"], strict=True):
            parameter.grad = grad.clone() if grad.numel() == parameter.numel() else None
        norm = gradient_norm(params, step["loss_scale"])
        check.close(f"step {i} norm", norm, step["grad_norm"], GRAD_NORM)
        scale = clip_scale(norm, clip, step["loss_scale"])
        check.close(f"step {i} scale", scale, step["scale"], GRAD_NORM)
        for group in optimizer.param_groups:
            group["lr"] = step["lr"]
        optimizer.step(scale=scale)
        for j, (parameter, expected) in enumerate(zip(params, step["params"], strict=True)):
            check.close(f"step {i} parameter {j}", parameter, expected, _tolerance(parameter))


@case("optim_lr*")
def schedules(data: dict[str, Any], check: Check) -> None:
    for i, result in enumerate(data["outputs"]["results"]):
        options = pick(ScheduleOptions, result["cfg"])
        schedule = Schedule(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), options)
        for step, (rate, asked) in enumerate(zip(result["lr_at_step"], result["get_lr"], strict=True)):
            check.close(f"{i} function at {step}", learning_rate(step, options), rate, SCHEDULE)
            check.close(f"{i} optimizer at {step}", schedule.optimizer.param_groups[0]["lr"], rate, SCHEDULE)
            check.close(f"{i} get_lr at {step}", schedule.get_lr(), asked, SCHEDULE)
            schedule.step()
        schedule.step(result["jump"]["step"])
        check.close(f"{i} jump", schedule.optimizer.param_groups[0]["lr"], result["jump"]["lr"], SCHEDULE)
    for i, row in enumerate(data["outputs"]["ema_mu"]):
        mu = default_mu(row["mu"], row["bs"], row["ngpus"])
        check.close(f"mu {i}", mu, row["ema_mu"], SCHEDULE)
        cpu = CPUEMA([nn.Parameter(torch.zeros(1))], mu, 100)
        check.close(f"mu {i} every 100 steps", cpu.mu, row["cpu_ema_mu_freq100"], SCHEDULE)


@case("optim_ema*")
def averages(data: dict[str, Any], check: Check) -> None:
    hps, inputs = data["hps"], data["inputs"]
    _mend_shared_memory(data)
    for name, expected in data["outputs"].items():
        params = _parameters(inputs["params"])
        frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        if name == "CPUEMA":
            average: Any = CPUEMA([*params, frozen], hps["mu"], hps["freq"])
        else:
            average = {"EMA": EMA, "FusedEMA": FusedEMA}[name]([*params, frozen], hps["mu"])

        def compare(what: str, actual: Any, wanted: Any, half: bool = False) -> None:
            names = sorted(wanted) if isinstance(wanted, dict) else range(len(wanted))
            check.equal(f"{what} parts", len(actual), len(wanted))
            for part in names:
                check.equal(f"{what} {part} type", str(actual[part].dtype), str(wanted[part].dtype))
                # averages are float32; after half parameters were rounded they carry half precision
                close = OPTIMIZER_HALF if half else _tolerance(actual[part])
                check.close(f"{what} {part}", actual[part], wanted[part], close)

        mixed = any(hps["half"])
        check.close(f"{name} mu", average.mu, expected["mu"], SCHEDULE)
        compare(f"{name} at start", average.state, expected["states"][0])
        for i, values in enumerate(inputs["trajectory"]):
            _set(params, values)
            average.step()
            compare(f"{name} step {i}", average.state, expected["states"][i + 1])
        average.swap()
        compare(f"{name} swapped parameters", params, expected["after_swap"]["params"])
        compare(f"{name} swapped state", average.state, expected["after_swap"]["state"])
        average.swap()
        compare(f"{name} swapped back", params, expected["after_swap_back"])
        _set(params, inputs["trajectory"][0])
        for _ in range(hps["freq"]):
            average.step()
        compare(f"{name} later", average.state, expected["after_more_steps"], half=mixed)
        check.equal(f"{name} types", [str(p.dtype) for p in params], expected["dtypes"])


def _mend_shared_memory(data: dict[str, Any]) -> None:
    """Puts right what the reference's flat average gets wrong: of a single float32 parameter it keeps no copy.

    The plain average of the same parameter, recorded beside it, has the numbers that were meant.
    """
    single = [i for i, half in enumerate(data["hps"]["half"]) if not half]
    if len(single) != 1:
        return
    (i,) = single
    plain, flat = data["outputs"]["EMA"], data["outputs"]["FusedEMA"]
    for ours, theirs in zip(plain["states"], flat["states"], strict=True):
        theirs["fp32"] = ours[i].flatten()
    flat["after_swap"]["state"]["fp32"] = plain["after_swap"]["state"][i].flatten()
    flat["after_swap"]["params"][i] = plain["after_swap"]["params"][i]
    flat["after_swap_back"][i] = plain["after_swap_back"][i]
    flat["after_more_steps"]["fp32"] = plain["after_more_steps"][i].flatten()


def _set(params: list[nn.Parameter], values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(params, values, strict=True):
            parameter.copy_(value)


@case("optim_loss_scaler*")
def loss_scaler(data: dict[str, Any], check: Check) -> None:
    for i, result in enumerate(data["outputs"]["results"]):
        cfg = result["cfg"]
        scaler = LossScaler(
            scale=cfg["loss_scale"],
            initial=cfg.get("init_scale", 2.0**16),
            factor=cfg["scale_factor"],
            window=cfg.get("scale_window", 1),
        )
        scales, good = [scaler.scale], [scaler.good_steps]
        for overflow in cfg["overflow"]:
            scaler.update(bool(overflow))
            scales.append(scaler.scale)
            good.append(scaler.good_steps)
        check.close(f"{i} scales", torch.tensor(scales), torch.tensor(result["scales"]), SCHEDULE)
        check.close(f"{i} scales", scales[-1], result["scales"][-1], SCHEDULE)
        check.equal(f"{i} good steps", good, result["unskipped"])
    for i, row in enumerate(data["outputs"]["backward"]):
        _backward(f"backward {i} {row['kind']}", row, check)
    for i, row in enumerate(data["outputs"]["clipped_grad_scale"]):
        check.close(f"clip {i}", clip_scale(row["grad_norm"], row["clip"], row["scale"]), row["out"], SCHEDULE)


def _backward(what: str, row: dict[str, Any], check: Check) -> None:
    """One backward pass of the toy problem, put together from the pieces of a training step.

    Two defects of the reference are left out: it ignores overflows without half precision, and in half precision a loss
    that is not finite neither runs backward nor lowers the scale.
    """
    w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    loss = _toy_loss(row["kind"], w)
    scaler = make_scaler(bool(row["fp16"]), None, window=250)  # the window of the half-precision recipe
    scaler.scale = row["scale_before"]
    (loss * scaler.scale).backward()
    norm = gradient_norm([w], scaler.scale)
    bad_loss = not math.isfinite(loss.item())
    fit = is_fit(norm) and not bad_loss
    check.close(f"{what} loss", loss, row["loss"], OPTIMIZER)
    check.close(f"{what} scale", scaler.scale, row["scale"], SCHEDULE)
    if row["fp16"]:
        check.equal(f"{what} overflow of the loss", bad_loss, bool(row["overflow_loss"]))
        check.equal(f"{what} overflow", not fit, bool(row["overflow_grad"]))
    else:
        check.equal(f"{what} overflow", not fit, not math.isfinite(row["grad_norm"]))
    if not (row["fp16"] and bad_loss):
        check.close(f"{what} norm", norm, row["grad_norm"], GRAD_NORM)
        check.close(f"{what} gradient", w.grad, row["grad"], Tolerance(0.0, 1e-6))
        scaler.update(not fit)
    check.close(f"{what} next scale", scaler.scale, row["scale_after"], SCHEDULE)


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: float) -> torch.Tensor:
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return torch.full_like(grad, ctx.value), None


def _toy_loss(kind: str, w: torch.Tensor) -> torch.Tensor:
    x = torch.tensor([1.0, 2.0, -0.5])
    if kind == "inf_loss":
        return (w * x).sum() * math.inf
    if kind in ("inf_grad", "nan_grad"):
        w = _BadGradient.apply(w, math.inf if kind == "inf_grad" else math.nan)
    return ((w * x) ** 2).sum()
