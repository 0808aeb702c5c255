"""Weights in the Hugging Face layout give the numbers that the peer library gave; its results are beside them.

The same without records, for more models, is in `test_peer.py`; `peer_models.py` makes the records.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parity.peer_compare import check_folder
from safetensors.torch import load_file, save_file

RECORDED = Path(__file__).parent / "recorded"
MODELS = ["merged_lyrics", "separate_lyrics"]


@pytest.mark.parametrize("name", MODELS)
def test_recorded_results(name: str) -> None:
    check_folder(RECORDED / name, load_file(RECORDED / name / "expected.safetensors"))


def test_codes_of_the_records_are_not_all_alike() -> None:
    for name in MODELS:
        expected = load_file(RECORDED / name / "expected.safetensors")
        for level in range(3):
            codes = expected[f"{level}.codes"].flatten().bincount()
            assert codes.max() < 0.6 * codes.sum(), f"level {level} of {name}: {codes.tolist()}"


def test_a_changed_weight_is_noticed(tmp_path: Path) -> None:
    """The comparison can fail: one matrix is transposed, which keeps its shape."""
    source = RECORDED / MODELS[0]
    weights = load_file(source / "model.safetensors")
    key = "priors.0.prior.transformer._attn_mods.3.mlp.c_fc.weight"
    weights[key] = weights[key].t().contiguous()
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    with pytest.raises(AssertionError, match="logits of level 2"):
        check_folder(tmp_path, load_file(source / "expected.safetensors"))


def test_weights_were_recorded_in_half_precision() -> None:
    """So the records also show that weights are cast to the model's own type."""
    for name in MODELS:
        assert {t.dtype for t in load_file(RECORDED / name / "model.safetensors").values()} == {torch.half}
