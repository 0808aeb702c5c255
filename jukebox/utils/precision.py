"""Precisions by name, in one table, and how calls say which of them they want. Loads torch only where it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # name in flags and files -> name in torch


def torch_dtype(name: str) -> torch.dtype:
    """The type that `fp32`, `fp16` or `bf16` names."""
    import torch

    return getattr(torch, DTYPES[name])


def dtype_name(dtype: torch.dtype) -> str:
    """`fp32`, `fp16` or `bf16`."""
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
