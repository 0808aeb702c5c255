"""What every golden case uses: a registry by name pattern, and the comparisons with their tolerances.

A case module registers functions:

    @case("conditioner_*")
    def conditioner(data: dict, check: Check) -> None:
        ...
        check.close("out", out, data["outputs"]["out"], MODULE)

The tolerances are those that came with the reference's numbers; none may be loosened. What they do not name, the
elements of gradients and the activations of whole VQ-VAEs, is compared relative to the largest element, for that is how
exact float32 sums are.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Tolerance:
    """|actual - expected| <= atol + rtol * |expected|; `scaled`: rtol times the largest expected magnitude."""

    atol: float = 0.0
    rtol: float = 0.0
    scaled: bool = False

    def __str__(self) -> str:
        return f"{self.atol:g}+{self.rtol:g}r{'max' if self.scaled else ''}"


EXACT = Tolerance()
MODULE = Tolerance(2e-5, 1e-5)  # one attention, conditioner or convolution stack
MODEL = Tolerance(1e-4, 1e-4)  # transformers up to about 20 layers, logits and losses of priors
DEEP = Tolerance(5e-4, 5e-4)  # 48 and 79 layers
PATHS = Tolerance(1e-4, 0.0)  # token by token or chunked against the whole sequence
STFT_LOSS = Tolerance(0.0, 1e-4)
GRAD_NORM = Tolerance(1e-6, 1e-3)
HALF = Tolerance(2e-2, 2e-2, scaled=True)
OPTIMIZER = Tolerance(1e-6, 0.0)  # optimizer and average in float32
OPTIMIZER_HALF = Tolerance(1e-3, 0.0)
SCHEDULE = Tolerance(0.0, 1e-9)  # learning rates, loss scales, mu
# Elements of an attention's gradients, for which the reference's table has only norms. They are sums of many terms of
# either sign: at twice the visible width plain float32 is off from float64 by 1.6 times MODULE, but at four times by
# 0.7 of the same with rtol of the largest element.
GRAD = Tolerance(MODULE.atol, MODULE.rtol, scaled=True)
STACK = GRAD  # activations and audio of whole VQ-VAEs, also at the end of a prior or of a pipeline


@dataclass
class Check:
    """Collects comparisons of one case; keeps the worst of them by its share of the tolerance."""

    compared: int = 0
    failures: list[str] = field(default_factory=list)
    devices: set[str] = field(default_factory=set)  # where the tensors were that this project made
    worst: tuple[float, str, float, str] = (-1.0, "", 0.0, "")  # share, what, error, tolerance

    def close(self, what: str, actual: Any, expected: Any, tolerance: Tolerance) -> None:
        """Compares tensors or numbers; shapes must be equal, NaN and infinities must be in the same places."""
        self.compared += 1
        self._note(actual)
        a = torch.as_tensor(actual).detach().to("cpu", torch.float64)
        e = torch.as_tensor(expected).detach().to("cpu", torch.float64)
        if a.shape != e.shape:
            self.failures.append(f"{what}: shape {list(a.shape)}, expected {list(e.shape)}")
            return
        if a.numel() == 0:
            return
        finite = torch.isfinite(e)
        if not torch.equal(torch.isfinite(a), finite) or not torch.equal(
            a[~finite].nan_to_num(0.5), e[~finite].nan_to_num(0.5)
        ):
            self.failures.append(f"{what}: NaN or infinity in other places")
            return
        if not finite.any():
            return
        error = (a - e).abs()[finite]
        magnitude = e.abs()[finite]
        if tolerance.scaled:
            magnitude = magnitude.max().expand_as(magnitude)
        allowed = tolerance.atol + tolerance.rtol * magnitude
        share = torch.where(error > 0, error / allowed.clamp_min(1e-300), torch.zeros_like(error)).max().item()
        worst = error.max().item()
        if share > self.worst[0]:
            self.worst = (share, what, worst, str(tolerance))
        if share > 1.0 or math.isnan(share):
            self.failures.append(f"{what}: error {worst:.3g}, {share:.3g} times the tolerance {tolerance}")

    def equal(self, what: str, actual: Any, expected: Any) -> None:
        """Compares tokens, ids, names, shapes or any plain values exactly."""
        self.compared += 1
        self._note(actual)
        if isinstance(actual, torch.Tensor) or isinstance(expected, torch.Tensor):
            a, e = torch.as_tensor(actual).cpu(), torch.as_tensor(expected).cpu()
            same = a.shape == e.shape and a.is_floating_point() == e.is_floating_point() and bool((a == e).all())
            if not same:
                count = f"{int((a != e).sum())} of {e.numel()} differ, {a.dtype}, {e.dtype}"
                detail = count if a.shape == e.shape else f"{a.shape}, {e.shape}"
                self.failures.append(f"{what}: {detail}")
        else:
            same = actual == expected
            if not same:
                self.failures.append(f"{what}: {str(actual)[:120]}, expected {str(expected)[:120]}")
        if same and self.worst[0] < 0:
            self.worst = (0.0, what, 0.0, "exact")

    def _note(self, actual: Any) -> None:
        if isinstance(actual, torch.Tensor):
            self.devices.add(str(actual.device))

    def places(self) -> str:
        """The devices of what was compared; numbers and words are the processor's."""
        return " and ".join(sorted(self.devices)) or "cpu"

    def raises(
        self, what: str, function: Callable[[], Any], error: type[Exception] | tuple[type[Exception], ...]
    ) -> None:
        """Passes when the function raises the error."""
        self.compared += 1
        try:
            function()
        except error:
            return
        self.failures.append(f"{what}: nothing was raised")


class Skip(Exception):
    """A case that cannot run here; its message says why and counts as a skip by name."""


CASES: dict[str, Callable[[dict[str, Any], Check], None]] = {}


def case(*patterns: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a function for all case names that match one of the shell patterns."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        for pattern in patterns:
            CASES[pattern] = function
        return function

    return register


def find(name: str) -> Callable[[dict[str, Any], Check], None] | None:
    """The function whose pattern fits the case's name; the longest pattern wins."""
    fitting = [p for p in CASES if fnmatch.fnmatchcase(name, p)]
    return CASES[max(fitting, key=len)] if fitting else None


def load_state(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Loads a golden state dict, every key matched, and returns the module in eval mode."""
    module.load_state_dict(state, strict=True)
    return module.eval()


def check_grad_norms(check: Check, module: torch.nn.Module, expected: dict[str, float], prefix: str = "") -> None:
    """Compares the gradient norm of every parameter; -1 in the reference means that it received no gradient."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    check.equal(f"{prefix}norms of no parameter", sorted(set(expected) - set(parameters)), [])
    for name, parameter in parameters.items():
        if name not in expected:  # a matrix under a second name
            continue
        want = float(expected[name])
        if want < 0:
            check.equal(f"{prefix}grad {name} absent", parameter.grad is None or not bool(parameter.grad.any()), True)
        else:
            got = 0.0 if parameter.grad is None else parameter.grad.norm().item()
            check.close(f"{prefix}grad {name}", got, want, GRAD_NORM)
