"""The table of speed and memory on a CPU, in one call, and its place in the documents.

    python benchmarks/bench.py [--quick] [--only=sampling] [--pairs=3] [--threads=2]
    python benchmarks/bench.py --tables

Other implementations are installed for it by `peers.py`. All alternatives of a row run in turn; `x peer` is the faster
one of them over ours, `x floor` ours over one pass over the bytes of the matrices in the same call. Writes
results/bench.json, and the tables of docs/performance.md from it; `--tables` does the latter alone. `--quick` and
`--only` print and write nothing.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import prior
import sampling
import vqvae
from common import RESULTS, ROOT, paired, parse_flags, save
from peers import PACKAGES, install

DOCUMENT = ROOT / "docs" / "performance.md"
MARK = re.compile(r"(<!-- bench -->\n).*?(<!-- end of bench -->)", re.DOTALL)


def sample_words() -> str:
    """The command of `make sample` without its name, `--resume` and `--open`, as the Makefile has it."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.search(r"\$\(PY\) (jukebox/sample\.py .*?) --resume", text)
    assert found, "the Makefile has no command of `make sample`"
    return re.sub(r"--name=\S+|\s+", " ", found[1]).replace("  ", " ")


def sample_command() -> dict[str, Any]:
    """Seconds of the command of `make sample`, as a whole, by each engine, in turn."""

    def run(engine: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, *shlex.split(sample_words()), f"--engine={engine}", f"--name={folder}/demo"]
            subprocess.run(words, cwd=ROOT, check=True, capture_output=True)

    return paired({engine: lambda engine=engine: run(engine) for engine in ("eager", "native")}, 1, 0)  # type: ignore[misc]


def jobs(quick: bool, pairs: int, pythons: dict[str, str]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every row: its name, and what measures it."""
    for row in sampling.ROWS:
        if not quick or sampling.title(row) in sampling.QUICK:
            yield f"sampling {sampling.title(row)}", lambda row=row: sampling.measure(row, pairs, pythons)
    once = 1 if quick else max(1, pairs // 3)
    yield "prefill small", lambda: prior.measure("prefill small", once, pythons, 512 if quick else 4096)
    yield "training step", lambda: prior.measure("training step", once, pythons)
    for job in vqvae.JOBS:
        if not quick or job == "decode2":
            yield f"vqvae {job}", lambda job=job: vqvae.measure(job, once, 5.0 if quick else 20.0)
    if not quick:
        yield "make sample", sample_command


def table(results: dict[str, Any]) -> str:
    """The rows as a table of Markdown."""
    lines = ["| row | which | ms, median (least to most) | x peer | x floor |", "| --- | --- | --- | --- | --- |"]
    for row, found in results.items():
        times, memory = found.get("times", found), found.get("peak_gib", {})
        peers = [values["median"] for name, values in times.items() if name in (*PACKAGES, "plain")]
        for name, values in times.items():
            if name.startswith("floor"):
                continue
            # Where tokens are counted, milliseconds are per token of each song.
            scale = values["ms per token"] / values["median"] if "ms per token" in values else 1000.0
            spread = f"{values['median'] * scale:.3g} ({values['min'] * scale:.3g} to {values['max'] * scale:.3g})"
            ours = name not in (*PACKAGES, "plain")
            faster = f"{min(peers) / values['median']:.2f}" if peers and ours else ""
            floor = times.get(f"floor, {name.split(', ')[-1]}") if name.startswith("native") else None
            above = f"{values['median'] / floor['median']:.2f}" if floor else ""
            held = f", {memory[name]:.2f} GiB" if name in memory else ""
            lines.append(f"| {row} | {name}{held} | {spread} | {faster} | {above} |")
    return "\n".join(lines)


def written(document: str, measured: dict[str, Any]) -> str:
    """A document with its table as results/bench.json has it."""
    on = measured["machine"]
    told = f"{on['processor']}, {on['cores']} cores, {on['threads']} threads, torch {on['torch']}, {on['date']}."
    return MARK.sub(lambda m: f"{m[1]}{told}\n\n{table(measured['results'])}\n{m[2]}", document)


def main() -> None:
    switches = {
        "quick": dict(action="store_true", help="a few rows, in under three minutes"),
        "tables": dict(action="store_true", help="write the documents from the results there are, and measure nothing"),
    }
    args = parse_flags(__doc__, pairs=dict(type=int, default=3), **switches)
    results: dict[str, Any] = {}
    if not args.tables:
        pythons = install()
        for name, measure in jobs(args.quick, 1 if args.quick else args.pairs, pythons):
            if args.only in name:
                start = time.perf_counter()
                results[name] = measure()
                print(f"{table({name: results[name]})}\n{time.perf_counter() - start:.0f} s\n", flush=True)
                if not args.quick and not args.only:
                    save("bench", results)  # after each row: a run that is ended early keeps what it measured
        if args.quick or args.only:
            return
    measured = json.loads((RESULTS / "bench.json").read_text(encoding="utf-8"))
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8"), measured), encoding="utf-8")


if __name__ == "__main__":
    main()
