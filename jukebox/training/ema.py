"""Exponential moving averages of a model's weights, kept in float32.

Three of the same kind: `EMA` keeps one average per parameter. `FusedEMA` keeps one flat vector per type of parameter,
with a few operations for the whole model. `CPUEMA` keeps averages in host memory and looks only at every `freq`-th
step. All average the parameters that are trained when they are built; frozen ones are left as they are. A warm-up
limits decays to (1 + t) / (10 + t) at update t, from 0 on. So an average forgets the weights it began with in a few
updates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from jukebox.utils.precision import dtype_name


class EMA:
    """average = mu * average + (1 - mu) * parameter, for each parameter, at every step.

    Args:
        params: what to average; those that are not trained are left out.
        mu: decay per step.
        warmup: begin with the smaller decays of a warm-up.

    Attributes:
        params: those that are averaged, in order.
        start: share of the weights that it began with, in [0, 1]; calls: steps so far.
    """

    freq = 1  # steps between two updates

    def __init__(self, params: Iterable[nn.Parameter], mu: float = 0.999, warmup: bool = False) -> None:
        self.mu, self.warmup = mu, warmup
        self.calls, self.start = 0, 1.0
        self.params = [parameter for parameter in params if parameter.requires_grad]
        self._begin()

    def _begin(self) -> None:
        self.state = [parameter.detach().float().clone() for parameter in self.params]

    def advance(self) -> float:
        """Counts one step and returns its decay, in [0, 1]; for a caller that moves the average itself."""
        self.calls += 1
        if self.calls % self.freq:
            return 1.0
        t = self.calls // self.freq - 1
        decay = min(self.mu, (1 + t) / (10 + t)) if self.warmup else self.mu
        self.start *= decay
        return decay

    @torch.no_grad()
    def step(self) -> None:
        """Moves the average towards the parameters as they are now."""
        decay = self.advance()
        if self.state:
            torch._foreach_mul_(self.state, decay)
            torch._foreach_add_(self.state, [p.detach().float() for p in self.params], alpha=1.0 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges parameters and average; half parameters are rounded on the way."""
        for parameter, average in zip(self.params, self.averages(), strict=True):
            weights = parameter.detach().to(average.device, torch.float32, copy=True)
            parameter.copy_(average)
            average.copy_(weights)

    def averages(self) -> list[torch.Tensor]:
        """One float32 tensor for each averaged parameter, in order, sharing memory with the average."""
        return self.state

    def state_dict(self) -> dict[str, Any]:
        """`averages`, `calls` and `start`."""
        return {"averages": self.averages(), "calls": self.calls, "start": self.start}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes where another average of the same parameters was, whatever its kind."""
        for average, value in zip(self.averages(), state["averages"], strict=True):
            average.copy_(value)
        self.calls = int(state["calls"])
        start = state.get("start")
        self.start = self.mu ** (self.calls // self.freq) if start is None else float(start)


class CPUEMA(EMA):
    """The average in host memory: only every `freq`-th step counts, with mu to the power of `freq`.

    Args:
        params: what to average.
        mu: decay per step.
        freq: steps between two updates; the weights in between are never seen.
        warmup: as for `EMA`, by updates.
    """

    def __init__(self, params: Iterable[nn.Parameter], mu: float = 0.999, freq: int = 1, warmup: bool = False) -> None:
        self.freq = freq
        super().__init__(params, mu**freq, warmup)

    def _begin(self) -> None:
        self.state = [parameter.detach().to("cpu", torch.float32, copy=True) for parameter in self.params]

    @torch.no_grad()
    def step(self) -> None:
        decay = self.advance()
        if self.calls % self.freq:
            return
        for parameter, average in zip(self.params, self.state, strict=True):
            average.mul_(decay).add_(parameter.detach().to("cpu", torch.float32), alpha=1.0 - decay)


class FusedEMA(EMA):
    """The averages of all parameters of one type in one flat vector: `state` has one for each of `fp16`, `fp32`, ..."""

    def _begin(self) -> None:
        kinds = [dtype_name(parameter.dtype) for parameter in self.params]
        self.members = {kind: [p for p, k in zip(self.params, kinds, strict=True) if k == kind] for kind in set(kinds)}
        self.state: dict[str, torch.Tensor] = {}  # type: ignore[assignment]
        views: dict[int, torch.Tensor] = {}
        for kind, members in sorted(self.members.items()):
            # `cat` of a single float32 parameter is a copy as well; a flattened view would share its memory
            self.state[kind] = torch.cat([p.detach().float().reshape(-1) for p in members])
            for parameter, view in zip(members, self._views(kind), strict=True):
                views[id(parameter)] = view
        self._averages = [views[id(parameter)] for parameter in self.params]

    def _views(self, kind: str) -> list[torch.Tensor]:
        members = self.members[kind]
        parts = self.state[kind].split([p.numel() for p in members])
        return [part.view(p.shape) for part, p in zip(parts, members, strict=True)]

    @torch.no_grad()
    def step(self) -> None:
        decay = self.advance()
        for average in self.state.values():
            average.mul_(decay)
        if self.params:
            torch._foreach_add_(self._averages, [p.detach().float() for p in self.params], alpha=1.0 - decay)

    def averages(self) -> list[torch.Tensor]:
        return self._averages


def default_mu(mu: float | None, bs: int, world_size: int) -> float:
    """The decay per step: `mu` if it is set and not 0, else 1 - (bs * world_size / 8) / 1000."""
    return mu or 1.0 - (bs * world_size / 8.0) / 1000.0


@dataclass(frozen=True)
class AverageOptions:
    """The hyper-parameters of the same names."""

    ema: bool
    cpu_ema: bool
    cpu_ema_freq: int
    ema_fused: bool
    ema_warmup: bool
    mu: float | None
    bs: int


def make_ema(params: Iterable[nn.Parameter], options: AverageOptions, world_size: int) -> EMA | None:
    """The average that the options ask for."""
    if not options.ema:
        return None
    mu = default_mu(options.mu, options.bs, world_size)
    if options.cpu_ema:
        return CPUEMA(params, mu, options.cpu_ema_freq, options.ema_warmup)
    return (FusedEMA if options.ema_fused else EMA)(params, mu, options.ema_warmup)


def counters(average: EMA | None) -> dict[str, Any]:
    """What of an average's state is not a tensor."""
    state = {} if average is None else average.state_dict()
    return {key: value for key, value in state.items() if key != "averages"}


def read_counters(saved: Mapping[str, Any], step: int) -> dict[str, Any]:
    """`counters` of a checkpoint at some step. Older ones have no `start`, and `calls` only of `CPUEMA`."""
    return {"calls": saved.get("calls") or step, "start": saved.get("start")}


def tell_start(average: EMA | None) -> str:
    """A line that says how much of an average is still the weights it began with; empty if that is at most 5 %."""
    if average is None or average.start <= 0.05:
        return ""
    return (
        f"{100 * average.start:.0f} % of the averaged weights are still those that training began with: "
        "train longer, or average less with a smaller --mu"
    )


def averaged_state(model: nn.Module, average: EMA | None) -> dict[str, torch.Tensor]:
    """The state dict with averaged weights in the parameters' types; float32 ones share the average's memory."""
    state = model.state_dict(keep_vars=True)
    by_parameter: dict[int, torch.Tensor] = {}
    if average is not None:
        by_parameter = {id(p): a for p, a in zip(average.params, average.averages(), strict=True)}
    return {key: by_parameter.get(id(value), value).detach().to(value.dtype) for key, value in state.items()}


@contextlib.contextmanager
def averaged_weights(average: EMA | None) -> Iterator[None]:
    """Gives parameters their averaged weights for a while and then exactly the raw ones back.

    Unlike two swaps this loses no digit of a half parameter's average. The raw weights wait in host memory.
    """
    if average is None:
        yield
        return
    raw = [p.detach().to("cpu", copy=True) for p in average.params]
    with torch.no_grad():
        for parameter, weights in zip(average.params, average.averages(), strict=True):
            parameter.copy_(weights)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, weights in zip(average.params, raw, strict=True):
                parameter.copy_(weights)
