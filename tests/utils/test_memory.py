"""Parts that halve when memory runs out, against a plain list; other errors pass."""

from __future__ import annotations

import pytest

from jukebox.utils.errors import did_you_mean
from jukebox.utils.memory import in_parts


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
@pytest.mark.parametrize("limit", [1, 3, 8])
@pytest.mark.parametrize("total", [0, 1, 7, 20])
def test_all_things_are_run_once_and_in_order(total: int, limit: int, error: Exception) -> None:
    tried: list[int] = []

    def run(start: int, end: int) -> list[int]:
        tried.append(end - start)
        if end - start > limit:
            raise error
        return list(range(start, end))

    parts = list(in_parts(total, 8, run, lambda size: size // 2))
    assert [thing for _, _, made in parts for thing in made] == list(range(total))
    assert [list(range(start, end)) for start, end, _ in parts] == [made for _, _, made in parts]
    too_large = [size for size in tried if size > limit]
    assert too_large == sorted(too_large, reverse=True) and len(too_large) <= 3, "a size that failed is not tried again"


def test_no_smaller_size_and_other_errors() -> None:
    def run(start: int, end: int) -> None:
        raise failure

    def smaller(size: int) -> int:
        raise ValueError(f"{size} do not fit")

    failure: Exception = MemoryError()
    with pytest.raises(ValueError, match="4 do not fit"):
        list(in_parts(9, 4, run, smaller))
    failure = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(in_parts(9, 4, run, smaller))


def test_what_follows_an_unknown_name() -> None:
    assert did_you_mean("lables", ["labels", "xyz"], "--") == "; did you mean --labels?"
    assert did_you_mean("xyz", ["labels"]) == "." and did_you_mean("xyz", ["labels"], otherwise="; see") == "; see"
