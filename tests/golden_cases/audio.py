"""Golden case `audio_bandwidth`: the loudness estimate that a VQ-VAE's losses are divided by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from golden_cases.checks import STFT_LOSS, Check, case
from jukebox.utils.audio_utils import calculate_bandwidth


class Recorded:
    """A data set that gives recorded arrays in turn, and keeps a list of the items asked for."""

    def __init__(self, arrays: list[torch.Tensor], n_items: int, with_labels: bool) -> None:
        self.arrays, self.n_items, self.with_labels = arrays, n_items, with_labels
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, item: int) -> Any:
        self.asked.append(item)
        x = self.arrays[item % len(self.arrays)]
        return (x, torch.zeros(1, dtype=torch.long)) if self.with_labels else x


@case("audio_bandwidth*")
def bandwidth(data: dict[str, Any], check: Check) -> None:
    for n, (given, expected) in enumerate(zip(data["inputs"]["datasets"], data["outputs"]["results"], strict=True)):
        dataset = Recorded(given["arrays"], given["n_items"], bool(given["returns_tuple"]))
        got = calculate_bandwidth(dataset, SimpleNamespace(sr=given["sr"]), duration=given["duration"])
        check.equal(f"{n} asked", dataset.asked, expected["asked"])
        for key, value in expected["bandwidth"].items():
            check.close(f"{n} {key}", got[key], value, STFT_LOSS)
        # Where the reference gave up for want of items, there is an estimate from all items, each read once.
        small = Recorded(given["arrays"], max(1, len(expected["asked"]) - 1), bool(given["returns_tuple"]))
        calculate_bandwidth(small, SimpleNamespace(sr=given["sr"]), duration=given["duration"])
        check.equal(f"{n} small data set", sorted(small.asked), list(range(len(small))))
