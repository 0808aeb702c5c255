"""Precisions by name."""

from __future__ import annotations

import pytest
import torch

from jukebox.utils.errors import UserError
from jukebox.utils.precision import DTYPES, check_dtype, dtype_name, matrix_dtype, torch_dtype


def test_names_and_types() -> None:
    assert {name: torch_dtype(name) for name in DTYPES} == {
        "fp32": torch.float32,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "int8": torch.float32,
    }
    assert matrix_dtype("int8") == torch.int8 and matrix_dtype("bf16") == torch.bfloat16
    assert dtype_name(torch.float32) == "fp32"


def test_int8_is_for_cpus() -> None:
    check_dtype("int8", "cpu")
    check_dtype("fp16", "cuda:1")
    with pytest.raises(UserError, match="--dtype=int8 is for CPUs, not for cuda:1: use --dtype=fp16 or --device=cpu"):
        check_dtype("int8", torch.device("cuda:1"))
