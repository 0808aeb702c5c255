"""What all benchmarks share: paired timing, peak memory, and results as JSON with the machine they were measured on.

Machines are shared and drift, so nothing is quoted as one absolute time. Alternatives run in turn, A B A B, in one
call; what counts are medians and the ratio pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
sys.path.insert(0, str(ROOT))


def parse_flags(text: str | None, **more: dict[str, Any]) -> argparse.Namespace:
    """The flags that benchmarks share, --only, --pairs and --threads, and further ones; sets PyTorch's threads.

    Args:
        text: the script's docstring, its first line is the help text.
        more: name -> what `add_argument` takes. A shared flag may be given another default so.
    """
    import torch

    shared: dict[str, dict[str, Any]] = {
        "only": dict(default="", help="part of the names of the rows to run"),
        "pairs": dict(type=int, default=5, help="rounds that count"),
        "threads": dict(type=int, default=0, help="0: as many as PyTorch takes"),
    }
    parser = argparse.ArgumentParser(description=(text or "").split("\n")[0])
    for name, values in {**shared, **more}.items():
        parser.add_argument(f"--{name}", **values)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def machine() -> dict[str, Any]:
    """Processor or card, threads, versions and commit."""
    import torch

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def paired(
    runs: dict[str, Callable[[], Any]], pairs: int = 5, warmup: int = 1, baseline: str | None = None
) -> dict[str, dict[str, float]]:
    """Times alternatives in turn.

    Args:
        runs: name -> what to time; it may return its own seconds, as a run in another process does.
        pairs: rounds that count; warmup: rounds that do not.
        baseline: the name that ratios refer to; the first if not given.

    Returns:
        For each name: median, min and max seconds, the median processor seconds of this process, and `ratio`: the
        median over rounds of the baseline's time by its own (above 1 is faster than the baseline).
    """
    baseline = baseline or next(iter(runs))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(warmup + pairs):
        for name, run in runs.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            own = run()
            took = own if isinstance(own, float) else time.perf_counter() - start
            if i >= warmup:
                seconds[name].append(took)
                cpu[name].append(time.process_time() - cpu_start)
    return {
        name: {
            "median": statistics.median(times),
            "min": min(times),
            "max": max(times),
            "cpu": statistics.median(cpu[name]),
            "ratio": statistics.median(b / t for b, t in zip(seconds[baseline], times, strict=True)),
        }
        for name, times in seconds.items()
    }


def show(title: str, results: dict[str, dict[str, float]], per: int = 1, unit: str = "s") -> None:
    """Prints a table; `per` divides times (tokens, steps), `unit` is "s" or "ms"."""
    factor = (1000.0 if unit == "ms" else 1.0) / per
    print(f"\n{title}")
    for name, r in results.items():
        print(
            f"  {name:32} {r['median'] * factor:9.3f} {unit}  ({r['min'] * factor:.3f} to {r['max'] * factor:.3f})  "
            f"ratio {r['ratio']:.2f}"
        )


def peak_memory(code: str) -> float:
    """Runs Python code in a fresh process and returns its peak resident memory in GiB (on Linux)."""
    # Not getrusage: its maximum starts at that of the process that started this one.
    tail = "\nlines = open('/proc/self/status').read().splitlines()"
    tail += "\nprint('PEAK', next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 2**20)"
    done = subprocess.run([sys.executable, "-c", code + tail], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split("PEAK")[-1])


def save(name: str, results: Any) -> Path:
    """Writes benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path.relative_to(ROOT)}")
    return path
