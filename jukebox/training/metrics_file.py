"""`metrics.jsonl`: what TensorBoard shows, for programs."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping

from jukebox.utils.files import atomic_write
from jukebox.utils.json_text import parse_json


class MetricsFile:
    """A file of one line of JSON for each entry of the log, which a resumed run continues.

    Lines of steps after `step`, and one that was cut off, are removed. What is logged again at `step` is not repeated.

    Args:
        path: of the file, which may exist.
        step: that the run is at.
    """

    def __init__(self, path: str, step: int) -> None:
        self.step, self.kept = step, list(_lines(path, step))
        with atomic_write(path, "w") as file:
            file.writelines(f"{line}\n" for line in self.kept)
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115, closed by `close`

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds the line `{"step": N, NAME: number, ...}`; NaN and infinite numbers are null."""
        entry = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        if step == self.step and any(set(parse_json(line)) == {"step", *entry} for line in self.kept[-2:]):
            return
        self.file.write(json.dumps({"step": step, **entry}) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def _lines(path: str, step: int) -> Iterator[str]:
    """The whole lines of a file, up to a step."""
    if not os.path.isfile(path):
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError, LookupError, TypeError):
                if int(parse_json(line)["step"]) <= step:
                    yield line.rstrip("\n")
