"""The table of `make faults`: each promise, what was tried to break it, how often, and what came of it.

A test takes part by a mark: `@pytest.mark.faults("promise", "what was tried")`. Names in braces in the second text are
parameters of the test. A test counts as one try, unless it counts by itself with the fixture `tried`. Tests with the
same two texts share a row. With `JUKEBOX_FAULTS=FILE` in the environment the table is printed after the tests, whether
they passed or not, and written to the file.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FILE = os.environ.get("JUKEBOX_FAULTS", "")
EVERY = 0.3  # seconds between looks at the memory of processes that a test started
HEAD = ("promise", "what was tried", "how often", "failures", "longest", "highest memory")


@dataclass
class Tried:
    """How often a test tried to break something, how many tries did, and the longest of them in seconds."""

    count: int = 0
    failures: int = 0
    longest: float = 0.0

    def add(self, count: int, longest: float = 0.0, failures: int = 0) -> None:
        self.count, self.failures = self.count + count, self.failures + failures
        self.longest = max(self.longest, longest)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """One try; an exception fails the test, and so counts as a failure."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.add(1, time.monotonic() - begin)


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Tried:
    """What the row of a test marked with `faults` is made of."""
    request.node.tried = found = Tried()
    return found


# --------------------------------------------------------------------------------------------------------- memory


def peak(process: int | str = "self") -> float:
    """The most memory that a process has had, in MB; 0 where the system does not tell."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return 0.0


def forget_peak() -> None:
    """From here on `peak` counts again."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [process]
    for known in found:
        found += children.get(known, [])
    return found[1:]


class Watch(threading.Thread):
    """Notes the most memory that this process, or one that it starts, has had."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = 0.0, threading.Event()
        forget_peak()
        self.start()

    def run(self) -> None:
        while not self.done.wait(EVERY):
            self.most = max([self.most, *map(peak, descendants(os.getpid()))])

    def stop(self) -> float:
        self.done.set()
        self.join()
        return max(self.most, peak())


# ---------------------------------------------------------------------------------------------------------- hooks


@dataclass
class Row:
    """A row of the table: sums over all tests that share it."""

    count: int = 0
    failures: int = 0
    longest: float = 0.0
    memory: float = 0.0


@dataclass
class Table:
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def add(self, promise: str, what: str, count: int, failures: int, longest: float, memory: float) -> None:
        row = self.rows.setdefault((promise, what), Row())
        row.count, row.failures = row.count + count, row.failures + failures
        row.longest, row.memory = max(row.longest, longest), max(row.memory, memory)

    def text(self) -> str:
        lines = [f"| {' | '.join(HEAD)} |", "|" + " --- |" * len(HEAD)]
        for (promise, what), row in sorted(self.rows.items()):
            cells = (promise, what, f"{row.count:,}", row.failures, f"{row.longest:.2f} s", f"{row.memory:,.0f} MB")
            lines.append(f"| {' | '.join(map(str, cells))} |")
        return "\n".join(lines) + "\n"


table = Table()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: Any) -> Iterator[None]:
    watch = Watch() if FILE and item.get_closest_marker("faults") else None
    item.watch = watch
    try:
        return (yield)  # type: ignore[misc]
    finally:
        if watch is not None:
            watch.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    report: Any = yield
    mark = item.get_closest_marker("faults")
    if item.watch is not None and (report.when == "call" or report.failed):
        promise, what = mark.args
        found = getattr(item, "tried", None) or Tried(1, longest=report.duration)
        failures = max(found.failures, int(report.failed))
        values = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        row = (promise, what.format(**values), max(found.count, failures), failures, found.longest, item.watch.stop())
        if not report.skipped:
            report.user_properties.append(("faults", row))
    return report


def pytest_runtest_logreport(report: Any) -> None:
    for name, row in report.user_properties:
        if name == "faults" and report.when in ("setup", "call"):
            table.add(*row)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if FILE:
        text = table.text()
        Path(FILE).write_text(text, encoding="utf-8")
        terminalreporter.section("faults")
        terminalreporter.write(text)
