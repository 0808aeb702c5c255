"""How much audio a code represents, from the strides of the VQ-VAE's stages. No torch here: command lines ask too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

from jukebox.utils.errors import UserError


def calculate_strides(strides: Sequence[int], downs: Sequence[int]) -> list[int]:
    """Down-sampling factor of each stage: stride ** down."""
    if len(strides) != len(downs):
        raise UserError(f"strides_t has {len(strides)} entries, downs_t has {len(downs)}: give one per level")
    return [stride**down for stride, down in zip(strides, downs, strict=True)]


def samples_per_code(strides: Sequence[int], downs: Sequence[int]) -> list[int]:
    """Raw samples per code of each level, level 0 first: the product of the factors of all stages up to it."""
    return list(accumulate(calculate_strides(strides, downs), mul))
