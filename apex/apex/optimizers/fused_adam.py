"""FusedAdam: the optimizer that people use. It sorts parameters to the code that updates them and keeps their state.

The arithmetic is in `update.py` (foreach functions) and `kernels.py` (Triton).
"""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from types import ModuleType
from typing import Any

import torch
from apex.optimizers.update import Coefficients, Item, foreach_average, foreach_update
from torch import Tensor

IMPLEMENTATIONS = ("auto", "triton", "foreach")
MULTIPLIERS = ("scale_exp_avg", "scale_exp_avg_sq")


class FusedAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay that unscales, clips, updates and averages in one pass over each parameter.

    State of a parameter: `step` (int), `exp_avg` and `exp_avg_sq`, as other Adams name them, and with `half_state` the
    multipliers `scale_exp_avg` and `scale_exp_avg_sq` (float32 scalars). A parameter without a gradient is not changed
    and its step count does not move.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
        half_state: bool = False,
        implementation: str = "auto",
    ) -> None:
        """
        Args:
            params: parameters or param groups, of float32, bfloat16 or float16.
            lr: learning rate; a schedule writes it to `param_groups`.
            betas: decays of the two moments, each in [0, 1).
            eps: added to the root of the second moment.
            weight_decay: decoupled weight decay.
            max_grad_norm: gradients whose total norm is larger are scaled down to it; None clips nothing. Not for
                sharded parameters, whose norm spans processes: give `step` a larger scale instead.
            half_state: keep the moments of float16 parameters in float16, each times a multiplier of its own.
            implementation: "auto" takes Triton where it runs and the foreach functions elsewhere; "triton" and
                "foreach" insist on one.

        Raises:
            ValueError: a value out of its range.
        """
        if lr < 0.0 or eps < 0.0 or weight_decay < 0.0:
            raise ValueError(f"lr={lr}, eps={eps} and weight_decay={weight_decay} must not be negative")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas={betas} must be in [0, 1)")
        if max_grad_norm is not None and max_grad_norm <= 0.0:
            raise ValueError(f"max_grad_norm={max_grad_norm} must be positive, or None")
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"implementation={implementation!r} must be one of {', '.join(IMPLEMENTATIONS)}")
        self.max_grad_norm = max_grad_norm
        self.half_state = half_state
        self.implementation = implementation
        self._averages: dict[Tensor, Tensor] = {}
        self._decay = 0.0
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    def average_into(self, averages: Mapping[Tensor, Tensor], decay: float) -> None:
        """Keeps moving averages of parameters: each step ends with average = decay * average + (1 - decay) * parameter.

        The averages belong to the caller and are updated in place, also those of parameters without a gradient.

        Args:
            averages: float32 tensor of the parameter's shape and device, by parameter; an empty dict ends it.
            decay: share that the average keeps, in [0, 1].

        Raises:
            ValueError: an average that cannot belong to its parameter, or a decay out of range.
        """
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay={decay} must be in [0, 1]")
        known = set(self._parameters())
        for parameter, average in averages.items():
            if parameter not in known:
                raise ValueError(f"no parameter of this optimizer has shape {list(parameter.shape)} and is averaged")
            if average.shape != parameter.shape or average.dtype != torch.float32 or average.device != parameter.device:
                raise ValueError(
                    f"the average of a parameter {list(parameter.shape)} on {parameter.device} must be float32, of "
                    f"that shape and there: got {average.dtype} {list(average.shape)} on {average.device}"
                )
        self._averages = dict(averages)
        self._decay = decay

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Any] | None = None,
        *,
        grads: Sequence[Tensor | None] | None = None,
        scale: float | Tensor = 1.0,
    ) -> Any:
        """One update of all parameters that have a gradient.

        Args:
            closure: computes the loss and the gradients again; optional.
            grads: gradients to use instead of `.grad`, one for each parameter over all groups, None to leave one out.
            scale: what gradients are divided by: the loss scale, times whatever clipping asks for. A tensor of one
                element stays on its device, so nothing waits for it.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = self._parameters()
        gradients = [p.grad for p in parameters] if grads is None else list(grads)
        if len(gradients) != len(parameters):
            raise ValueError(f"got {len(gradients)} gradients for {len(parameters)} parameters")
        by_parameter = {p: g for p, g in zip(parameters, gradients, strict=True) if g is not None}
        scales = _Scales(self._clipped(scale, by_parameter))

        for group in self.param_groups:
            shared: dict[tuple[torch.device, int], list[Item]] = defaultdict(list)
            for p in group["params"]:
                if p in by_parameter:
                    item, step = self._item(p, by_parameter[p])
                    shared[item.parameter.device, step].append(item)
            for (device, step), items in shared.items():
                self._update(items, Coefficients.of(group, step), scales.on(device))

        untouched = [p for p in self._averages if p not in by_parameter]
        if untouched:
            foreach_average([_local(self._averages[p]) for p in untouched], [_local(p) for p in untouched], self._decay)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a saved state in the types it was saved in; the base class rounds moments of half parameters."""
        super().load_state_dict(state_dict)
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for parameter, saved_id in zip(self._parameters(), saved_ids, strict=True):
            for key, value in state_dict["state"].get(saved_id, {}).items():
                if key == "step":
                    self.state[parameter][key] = int(value)
                elif isinstance(value, Tensor):
                    self.state[parameter][key] = value.detach().to(parameter.device, copy=True)
                elif key in MULTIPLIERS:
                    self.state[parameter][key] = torch.tensor(value, dtype=torch.float32, device=parameter.device)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _item(self, parameter: Tensor, gradient: Tensor) -> tuple[Item, int]:
        """What the update of one parameter needs, its state made at first use; and its step count, moved on."""
        if gradient.is_sparse:
            raise ValueError("FusedAdam does not take sparse gradients")
        state = self.state[parameter]
        if not state:
            half = self.half_state and parameter.dtype != torch.float32
            if half and _is_sharded(parameter):
                raise ValueError("half_state is not for sharded parameters: their multipliers would differ by process")
            dtype = torch.float16 if half else torch.float32
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter, dtype=dtype)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=dtype)
            if half:
                for key in MULTIPLIERS:
                    state[key] = torch.ones((), dtype=torch.float32, device=parameter.device)
        state["step"] += 1
        average = self._averages.get(parameter)
        item = Item(
            _local(parameter),
            _local(gradient),
            _local(state["exp_avg"]),
            _local(state["exp_avg_sq"]),
            (state[MULTIPLIERS[0]], state[MULTIPLIERS[1]]) if MULTIPLIERS[0] in state else None,
            None if average is None else _local(average),
        )
        return item, state["step"]

    def _clipped(self, scale: float | Tensor, gradients: Mapping[Tensor, Tensor]) -> Tensor:
        """The scale times what clipping asks for: a float32 scalar."""
        if self.max_grad_norm is None or not gradients:
            return torch.as_tensor(scale, dtype=torch.float32).reshape(())
        if any(_is_sharded(p) for p in gradients):
            raise ValueError("max_grad_norm is not for sharded parameters: give step() a larger scale instead")
        device = next(iter(gradients.values())).device
        norms = [g.norm(dtype=torch.float32).to(device) for g in gradients.values()]
        divisor = torch.as_tensor(scale, dtype=torch.float32, device=device).reshape(())
        return divisor * (torch.stack(norms).norm() / divisor / self.max_grad_norm).clamp_min(1.0)

    def _update(self, items: list[Item], c: Coefficients, scale: Tensor) -> None:
        items = [item for item in items if item.parameter.numel()]
        if not items:
            return
        kernels = None if self.implementation == "foreach" else _kernels(items[0].parameter.device)
        if kernels is None and self.implementation == "triton":
            raise ValueError(f"implementation='triton' does not run on {items[0].parameter.device} here")
        if kernels is not None:
            fitting = [item for item in items if kernels.usable_for(item)]
            items = [item for item in items if not kernels.usable_for(item)]
            kernels.triton_update(fitting, c, scale, self._decay)
        if items:
            foreach_update(items, c, scale, self._decay)


class _Scales:
    """One scalar, copied once to each device that asks for it."""

    def __init__(self, scale: Tensor) -> None:
        self._scale = scale
        self._copies: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        if device not in self._copies:
            self._copies[device] = self._scale.to(device)
        return self._copies[device]


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor (a DTensor), or the tensor itself: updates work element by element."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _kernels(device: torch.device) -> ModuleType | None:
    """The Triton kernels where they run on the device. Triton is imported only where it could be used."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return None
    return _load_kernels()


@functools.cache
def _load_kernels() -> ModuleType | None:
    try:
        from apex.optimizers import kernels
    except ImportError:
        return None
    return kernels
