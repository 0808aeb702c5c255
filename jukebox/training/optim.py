"""Adam as the released models were trained with, and the choice of its implementation.

The numbers are fixed: epsilon is added to the root of the second moment before bias correction. Weight decay is
multiplied by the bias-corrected step size. `apex.optimizers.FusedAdam` gives the same ones and is taken if it is
installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from jukebox.training.ema import CPUEMA, EMA

if TYPE_CHECKING:
    from apex.optimizers import FusedAdam

ScaledOptimizer: TypeAlias = "Adam | FusedAdam"  # their `step` takes `scale`
CHUNK = 2**25  # elements updated at a time: temporaries stay at a few hundred megabytes, whatever the model
HALF_MAX = 65504.0  # largest number in half precision


class Adam(torch.optim.Optimizer):
    r"""Adam with gradients divided by a scale and weight decay outside of the moments.

    With gradient g (after division), moments m and v, at a parameter's step t:

        p -= lr * sqrt(1 - beta2^t) / (1 - beta1^t) * (m / (sqrt(v) + eps) + weight_decay * p)

    Half parameters are updated in float32 and rounded. A parameter without a gradient is left out, its t included.

    Args:
        params: parameters or groups of them.
        lr, betas, eps, weight_decay: as in the formula.
        half_state: keep the moments of half parameters in half precision. Each moment gets a multiplier, chosen after
            every step so that its largest element is the largest half number.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        half_state: bool = False,
    ) -> None:
        self.half_state = half_state
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, scale: float = 1.0) -> Any:  # type: ignore[override]
        """Updates every parameter that has a gradient.

        Args:
            closure: computes the loss again, as in `torch.optim`.
            scale: gradients are divided by this; they themselves are left as they are.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in self._alike(group["params"]):
                self._update(parameters, group, scale)
        return loss

    def _alike(self, parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
        """Lists of parameters with one device, type and step count, of bounded size: each list is updated as one."""
        lists: dict[tuple[Any, ...], list[torch.nn.Parameter]] = {}
        sizes: dict[tuple[Any, ...], int] = {}
        for parameter in parameters:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                self._start(parameter, state)
            state["step"] += 1
            key = (parameter.device, parameter.dtype, parameter.grad.dtype, "scale_exp_avg" in state, state["step"])
            lists.setdefault(key, []).append(parameter)
            sizes[key] = sizes.get(key, 0) + parameter.numel()
            if sizes[key] >= CHUNK:
                del sizes[key]
                yield lists.pop(key)
        yield from lists.values()

    def _start(self, parameter: torch.nn.Parameter, state: dict[str, Any]) -> None:
        half = self.half_state and parameter.dtype == torch.float16
        kind = torch.float16 if half else torch.float32
        state["step"] = 0
        state["exp_avg"] = torch.zeros_like(parameter, dtype=kind)
        state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=kind)
        if half:
            state["scale_exp_avg"] = torch.ones((), dtype=torch.float32, device=parameter.device)
            state["scale_exp_avg_sq"] = torch.ones((), dtype=torch.float32, device=parameter.device)

    def _update(self, parameters: list[torch.nn.Parameter], group: Mapping[str, Any], scale: float) -> None:
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        half_state = "scale_exp_avg" in states[0]

        grads = [parameter.grad.float() for parameter in parameters if parameter.grad is not None]
        if scale != 1.0:
            grads = list(torch._foreach_div(grads, scale))
        weights = [parameter.float() for parameter in parameters]  # the parameters themselves if they are float32
        m, v = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        if half_state:
            m = _unpack(m, [state["scale_exp_avg"] for state in states])
            v = _unpack(v, [state["scale_exp_avg_sq"] for state in states])

        torch._foreach_mul_(m, beta1)
        torch._foreach_add_(m, grads, alpha=1.0 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, value=1.0 - beta2)
        del grads

        t = states[0]["step"]
        step_size = group["lr"] * math.sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        update = list(torch._foreach_sqrt(v))
        torch._foreach_add_(update, group["eps"])
        update = list(torch._foreach_div(m, update))
        if group["weight_decay"]:
            torch._foreach_add_(update, weights, alpha=group["weight_decay"])
        torch._foreach_add_(weights, update, alpha=-step_size)

        if parameters[0].dtype != torch.float32:
            torch._foreach_copy_(list[torch.Tensor](parameters), weights)
        if half_state:
            _pack(m, states, "exp_avg")
            _pack(v, states, "exp_avg_sq")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up a saved state; moments keep the types they were saved in."""
        super().load_state_dict(state_dict)
        saved = state_dict["state"]
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for parameter, i in zip(parameters, ids, strict=True):
            for name, value in saved.get(i, {}).items():
                if isinstance(value, torch.Tensor):  # the base class casts to the parameter's type
                    value = value.to(parameter.device, copy=True)
                self.state[parameter][name] = value


def _unpack(moments: list[torch.Tensor], scales: list[torch.Tensor]) -> list[torch.Tensor]:
    """Half moments times their multipliers, in float32."""
    return [moment.float() * scale for moment, scale in zip(moments, scales, strict=True)]


def _pack(moments: list[torch.Tensor], states: list[dict[str, Any]], name: str) -> None:
    """Stores float32 moments as half numbers with new multipliers."""
    for moment, largest, state in zip(moments, torch._foreach_norm(moments, math.inf), states, strict=True):
        multiplier = _multiplier(largest)
        state[f"scale_{name}"] = multiplier
        state[name].copy_(moment / multiplier)


def pack_moment(moment: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A float32 moment as half numbers and their multiplier, a float32 scalar; as `Adam` keeps it."""
    multiplier = _multiplier(torch.linalg.vector_norm(moment, math.inf))
    return (moment / multiplier).half(), multiplier


def _multiplier(largest: torch.Tensor) -> torch.Tensor:
    return 1e-8 + largest / HALF_MAX


@dataclass(frozen=True)
class OptimizerOptions:
    """The hyper-parameters of the same names."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    fp16_opt: bool


def make_optimizer(
    params: Iterable[torch.nn.Parameter], options: OptimizerOptions, fused: bool = True
) -> tuple[ScaledOptimizer, str]:
    """Builds the optimizer of a run.

    Args:
        params: the parameters to train.
        options: of Adam.
        fused: take `apex.optimizers.FusedAdam` if it can be imported.

    Returns:
        (optimizer, its name for the log).
    """
    values: dict[str, Any] = dict(
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        weight_decay=options.weight_decay,
        half_state=options.fp16_opt,
    )
    name = " with half-precision moments" if options.fp16_opt else ""
    if fused:
        try:
            from apex.optimizers import FusedAdam  # type: ignore[import-untyped,unused-ignore]

            return FusedAdam(params, **values), f"apex FusedAdam{name}"
        except (ImportError, TypeError):  # not installed, or another package of that name
            pass
    return Adam(params, **values), f"Adam{name}"


def can_average(optimizer: torch.optim.Optimizer, average: EMA | None) -> bool:
    """Whether an optimizer moves the average in the same pass over the weights; if not, the average has a `step`."""
    return average is not None and not isinstance(average, CPUEMA) and hasattr(optimizer, "average_into")
