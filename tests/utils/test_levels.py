"""Samples per code, and that no file but theirs multiplies strides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jukebox.utils.errors import UserError
from jukebox.utils.levels import calculate_strides, samples_per_code

JUKEBOX = Path(__file__).parents[2] / "jukebox"


def test_samples_per_code() -> None:
    assert samples_per_code([2, 2, 2], [3, 2, 2]) == [8, 32, 128]
    assert samples_per_code([2, 2], [5, 3]) == [32, 256] and samples_per_code([4, 2], [2, 1]) == [16, 32]
    assert calculate_strides([2, 4, 2], [3, 1, 2]) == [8, 4, 4]
    with pytest.raises(UserError, match="strides_t has 2 entries, downs_t has 1: give one per level"):
        samples_per_code([2, 2], [1])


def test_they_have_one_home() -> None:
    """Other files may know the factor of their own stage, and none multiplies over levels."""
    product = re.compile(r"cumprod|\bs\*\*d\b|stride\*\*down\b|prod\(.*downsamples")
    found = [p.name for p in JUKEBOX.rglob("*.py") if product.search(p.read_text(encoding="utf-8"))]
    assert found == ["levels.py"]
