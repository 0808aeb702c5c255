"""Loads a folder in the Hugging Face layout and holds what we compute against what the peer library computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from jukebox.loaders import find_model

TOLERANCE = 1e-4
CPU = torch.device("cpu")


@torch.no_grad()
def check_folder(folder: Path, expected: Mapping[str, Tensor]) -> None:
    """Codes must be equal, logits and audio within the tolerance (audio relative to its largest sample).

    Args:
        expected: see `compute` in peer_models.py.
    """
    model = find_model("", str(folder))
    audio = expected["audio"]
    vqvae = model.vqvae(audio.shape[1], CPU)
    codes = vqvae.encode(audio)
    for level, z in enumerate(codes):
        wanted = expected[f"{level}.codes"]
        assert torch.equal(z, wanted.long()), f"{int((z != wanted).sum())} codes of level {level} differ"
        decoded = vqvae.decode([wanted.long()], start_level=level, end_level=level + 1)
        reference = expected[f"{level}.decoded"]
        distance = float((decoded - reference).abs().max() / reference.abs().max())
        assert distance < TOLERANCE, f"audio of level {level}: {distance:.1e}"
    for level in range(len(model.levels)):
        lazy = model.prior(level, vqvae, CPU)
        assert lazy is not None
        prior = lazy.load()
        above = [expected[f"{level}.above"].long()] if f"{level}.above" in expected else []
        y = expected[f"{level}.y"].long() if f"{level}.y" in expected else None
        result = prior.z_forward(expected[f"{level}.z"].long(), above, y, get_preds=True)
        logits, reference = result[1]["preds"], expected[f"{level}.logits"]
        assert logits.shape == reference.shape
        distance = float((logits - reference).abs().max())
        assert distance < TOLERANCE, f"logits of level {level}: {distance:.1e}"
        assert float(reference.std()) > 0.1  # there was something to compare
