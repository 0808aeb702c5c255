"""What a person sees of a run: the bars, and the page to open at its end."""

from __future__ import annotations

import io
import sys
import webbrowser
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jukebox.loaders import find_model
from jukebox.sampling import command
from jukebox.sampling.flags import read_settings
from jukebox.sampling.plan import describe, level_plans
from jukebox.sampling.report import Bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [False, True])
def test_one_bar_for_the_whole_run(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", said := Terminal() if terminal else io.StringIO())
    bars = Bars()
    # as of the 5b model: tokens of 20 s, and the bytes of the levels' weights
    bars.expect({2: (6890, 10e9), 1: (27560, 2e9), 0: (110240, 2e9)})
    shares = []
    for level, tokens in ((2, 6890), (1, 27560), (0, 110240)):
        bars.begin(level, tokens, 2)
        for _ in range(2):
            bars.advance(tokens // 2)
            bars.window_done()
        bars.end()
        shares.append(round(bars.share, 3))
    whole = 6890 * 10 + (27560 + 110240) * 2
    assert shares == [round(68900 / whole, 3), round((68900 + 55120) / whole, 3), 1.0] and bars._whole is None
    assert ("whole run:" in said.getvalue()) == terminal and ("of the run" in said.getvalue()) == (not terminal)


def test_a_time_column_is_filled_wherever_it_is_shown() -> None:
    settings = read_settings(dict(name="x", model="demo", sample_length_in_seconds=2, dtype="fp32"), find_model("demo"))
    cpu = torch.device("cpu")
    plans = level_plans(settings, [0, 0, 0], 1, cpu, timed=False)
    header, *rows = describe(settings, plans, cpu, 10**9).splitlines()[-4:]
    assert "memory" in header and "time" not in header and all(row == row.rstrip() for row in rows)
    timed = [replace(plans[0], seconds=3.0), *plans[1:]]
    _, *rows, total = describe(settings, timed, cpu, 10**9).splitlines()[-5:]
    assert [row.split()[-2:] for row in rows] == [["3.0", "s"], ["0", "s"], ["0", "s"]] and "time in all" in total


@pytest.mark.parametrize("desktop", [False, True])
def test_the_end_names_the_page_and_opens_it(desktop: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened, said = list[str](), list[str]()
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if desktop:
        monkeypatch.setenv("DISPLAY", ":0")
    settings: Any = SimpleNamespace(sample_levels=[1, 2])
    report: Any = SimpleNamespace(message=said.append)
    page = tmp_path / "level_1" / "index.html"
    command.tell_page(command.page_of(tmp_path, settings), {}, report)
    assert said == [f"to listen, open {page}"] and opened == []
    command.tell_page(command.page_of(tmp_path, settings), {"open": True}, report)
    assert opened == ([page.as_uri()] if desktop else [])
