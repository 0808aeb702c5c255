"""Lyric-to-music alignment (align_*)."""

from __future__ import annotations

from typing import Any

import torch

from golden_cases.checks import MODULE, Check, case
from jukebox.align import get_alignment
from jukebox.hparams import Hyperparams
from jukebox.utils.sample_utils import get_starts


def check_alignments(
    check: Check, name: str, prior: Any, zs: list[torch.Tensor], labels: Any, hps: Any, expected: list[torch.Tensor]
) -> None:
    found = get_alignment(None, zs, labels, prior, False, hps)
    check.equal(f"{name}number of alignments", len(found), len(expected))
    for i, (alignment, wanted) in enumerate(zip(found, expected, strict=True)):
        check.equal(f"{name}type of item {i}", str(alignment.dtype), str(wanted.dtype).removeprefix("torch."))
        check.close(f"{name}alignment of item {i}", torch.from_numpy(alignment), wanted, MODULE)


@case("align_*")
def align(data: dict[str, Any], check: Check) -> None:
    from golden_cases.windows import build_prior

    prior = build_prior(data["hps"], data["ctor_kwargs"], data["state_dict"])
    prior.alignment_layer = data["inputs"]["alignment_layer"]
    prior.alignment_head = data["inputs"]["alignment_head"]
    for r, (run, expected) in enumerate(zip(data["inputs"]["runs"], data["outputs"]["runs"], strict=True)):
        levels, z = run["levels"], run["z_top"]
        fractions = [0.5] * (levels - 1) + [run["hop_fraction_top"]]
        hps = Hyperparams(levels=levels, hop_fraction=fractions, n_samples=z.shape[0])
        zs = [torch.zeros(z.shape[0], 0, dtype=torch.long)] * (levels - 1) + [z]
        check_alignments(check, f"run {r} ", prior, zs, run["labels"], hps, expected["alignments"])
        hop = int(run["hop_fraction_top"] * prior.n_ctx)
        starts = get_starts(max(z.shape[1], prior.n_ctx), prior.n_ctx, hop)
        check.equal(f"run {r} starts", starts, expected["starts"])
        for start, y, indices in zip(starts, expected["ys"], expected["indices"], strict=True):
            got_y, got_indices = prior.get_y(run["labels"], start, get_indices=True)
            check.equal(f"run {r} y of window {start}", got_y, y)
            check.equal(f"run {r} indices of window {start}", [list(i) for i in got_indices], indices)
