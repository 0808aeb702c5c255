"""The table of `make bench`: what its columns say, and that the documents show the results that are kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import bench  # noqa: E402
import common  # noqa: E402
import sampling  # noqa: E402


def times(seconds: float, per_token: float | None = None) -> dict[str, float]:
    own = {"median": seconds, "min": seconds / 2, "max": seconds * 2}
    return own if per_token is None else {**own, "ms per token": per_token}


def test_a_row_is_compared_with_the_faster_peer_and_the_floor_of_its_type() -> None:
    found = {
        "transformers": times(0.8, 100.0),
        "jukebox-infer": times(0.4, 50.0),
        "native, fp32": times(0.16, 20.0),
        "floor, fp32": times(0.08, 10.0),
        "native, int8": times(0.08, 10.0),
        "floor, int8": times(0.02, 2.5),
    }
    lines = bench.table({"sampling small": found}).splitlines()
    assert lines[2:] == [
        "| sampling small | transformers | 100 (50 to 200) |  |  |",
        "| sampling small | jukebox-infer | 50 (25 to 100) |  |  |",
        "| sampling small | native, fp32 | 20 (10 to 40) | 2.50 | 2.00 |",
        "| sampling small | native, int8 | 10 (5 to 20) | 5.00 | 4.00 |",
    ]


def test_memory_stands_beside_its_path() -> None:
    row = {"times": {"plain": times(2.0), "tiled": times(0.5)}, "peak_gib": {"plain": 1.0, "tiled": 0.25}, "samples": 1}
    assert "| vqvae encode | tiled, 0.25 GiB | 500 (250 to 1e+03) | 4.00 |  |" in bench.table({"vqvae encode": row})


def test_the_documents_show_the_results_that_are_kept() -> None:
    path = common.RESULTS / "bench.json"
    document = bench.DOCUMENT.read_text(encoding="utf-8")
    shown = bench.MARK.findall(document)
    assert len(shown) == 1, "the marks of the table are gone"
    if path.exists():
        assert bench.written(document, json.loads(path.read_text())) == document, "run benchmarks/bench.py --tables"
    else:
        assert bench.MARK.sub(r"\1\2", document) == document, "a table without results"


def test_a_table_is_written_between_its_marks_and_only_once() -> None:
    machine = dict(processor="Some", cores=2, threads=2, torch="2", date="2026-01-02")
    measured = {"machine": machine, "results": {"training step": {"transformers": times(3.0), "stored": times(1.0)}}}
    document = "before\n<!-- bench -->\nold\n<!-- end of bench -->\nafter\n"
    found = bench.written(document, measured)
    assert found.startswith("before\n<!-- bench -->\nSome, 2 cores") and found.endswith(
        "<!-- end of bench -->\nafter\n"
    )
    assert "| training step | stored | 1e+03 (500 to 2e+03) | 3.00 |  |" in found and "old" not in found
    assert bench.written(found, measured) == found


def test_quick_rows_exist() -> None:
    assert set(sampling.QUICK) <= {sampling.title(row) for row in sampling.ROWS}


def test_the_command_of_make_sample_is_found() -> None:
    assert bench.sample_words().startswith("jukebox/sample.py --model=demo") and "--open" not in bench.sample_words()


def test_shared_flags_have_one_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", "--only=tiny", "--seconds=2"])
    more: dict[str, Any] = dict(pairs=dict(type=int, default=3), seconds=dict(type=float, default=1.0))
    args = common.parse_flags("What it is.\n", **more)
    assert (args.only, args.pairs, args.threads, args.seconds) == ("tiny", 3, 0, 2.0)
