"""Precisions by name, in one table, and how calls say which of them they want. Loads torch only where it is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jukebox.utils.errors import UserError

if TYPE_CHECKING:
    import torch

# Name in flags and files -> name in torch of the arithmetic's type, and of the matrices' where it is another.
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float32"}
MATRICES = {"int8": "int8"}

LARGEST = 1e18  # the square of anything above is infinite in float32


def torch_dtype(name: str) -> torch.dtype:
    """The type of the arithmetic that a name of DTYPES asks for."""
    import torch

    return getattr(torch, DTYPES[name])


def matrix_dtype(name: str) -> torch.dtype:
    """The type of the matrices that a name of DTYPES asks for."""
    import torch

    return getattr(torch, MATRICES.get(name, DTYPES[name]))


def check_dtype(name: str, device: torch.device | str) -> None:
    """Refuses a precision that a device has no quick products for.

    Raises:
        UserError: int8 anywhere but on a CPU.
    """
    if name == "int8" and not str(device).startswith("cpu"):
        raise UserError(f"--dtype=int8 is for CPUs, not for {device}: use --dtype={half_dtype(device)} or --device=cpu")


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a type of the arithmetic: `fp32`, `fp16` or `bf16`."""
    return next(name for name in DTYPES if torch_dtype(name) == dtype)


def read_dtype(fp16: bool = False, dtype: torch.dtype | str | None = None) -> torch.dtype:
    """The type that a public call asks for: `dtype`, a type or its name, or else `fp16`, else float32."""
    if dtype is None or isinstance(dtype, str):
        return torch_dtype(dtype or ("fp16" if fp16 else "fp32"))
    return dtype


def dtype_of(sampling_kwargs: Mapping[str, Any]) -> torch.dtype:
    """The type that the entries `fp16` and `dtype` of sampling_kwargs ask for."""
    return read_dtype(bool(sampling_kwargs.get("fp16")), sampling_kwargs.get("dtype"))


def half_dtype(device: torch.device | str) -> str:
    """The half precision that a device is quick in: a CPU has none for fp16 and is many times slower with it."""
    return "bf16" if str(device).startswith("cpu") else "fp16"


def usual_dtype(device: torch.device | str) -> str:
    """What a prior runs in by default."""
    return "fp16" if str(device).startswith("cuda") else "fp32"


def odd_numbers(tensor: torch.Tensor) -> str:
    """What is wrong with the numbers of a tensor; "" if they are finite and their squares are."""
    if not tensor.is_floating_point() or not tensor.numel():
        return ""
    low, high = (float(end) for end in tensor.detach().aminmax())
    worst = max(low, high, key=abs)
    if abs(worst) <= LARGEST:
        return ""
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{'NaN' if math.isnan(worst) else f'{worst:.3g}'}" + ("" if kind == "float32" else f" in {kind}")


def logits_error(position: int) -> UserError:
    """What is said of logits that are NaN or infinite at a position of the context."""
    return UserError(
        f"the logits at position {position} are not finite (NaN or infinite): the weights are damaged, from a run that "
        "diverged, or too large for the type they run in; use another checkpoint, or fp32"
    )
