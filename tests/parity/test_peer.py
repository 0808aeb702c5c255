"""Tiny models of `transformers` with random weights: converted, they give its logits, its codes and its audio.

make parity         installs that library and runs this; elsewhere it is skipped
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity.peer_compare import check_folder
from parity.peer_models import MODELS, RECORDED, build, compute, save

pytest.importorskip("transformers", reason="transformers is not installed: `make parity` installs it and runs this")


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_codes_are_the_peers(name: str, tmp_path: Path) -> None:
    model = build(name, seed=5)
    save(model, tmp_path)
    check_folder(tmp_path, compute(model, seed=6))


@pytest.mark.parametrize(
    ("how", "files"),
    [
        (dict(max_shard_size="50KB"), "model-*.safetensors"),
        (dict(safe_serialization=False), "pytorch_model.bin"),
        (dict(safe_serialization=False, max_shard_size="50KB"), "pytorch_model-*.bin"),
    ],
)
def test_every_way_of_saving(how: dict[str, Any], files: str, tmp_path: Path) -> None:
    model = build("separate_lyrics")
    save(model, tmp_path, **how)
    count = len(list(tmp_path.glob(files)))
    assert count > 1 if "*" in files else count == 1
    check_folder(tmp_path, compute(model))


def test_heads_that_were_saved_as_one_with_their_embedding(tmp_path: Path) -> None:
    """As the library itself saves a model whose output head is its embedding, without a second copy."""
    model = build("merged_lyrics")
    assert model.priors[0].prior.fc_proj_out.weight is model.priors[0].prior.embed_tokens.weight
    model.save_pretrained(tmp_path, safe_serialization=False)
    check_folder(tmp_path, compute(model))


def test_the_records_are_what_the_peer_computes() -> None:
    from safetensors.torch import load_file

    for name in ("merged_lyrics", "separate_lyrics"):
        recorded = load_file(RECORDED / name / "expected.safetensors")
        fresh = compute(build(name, dtype=torch.half))
        assert set(fresh) == set(recorded)
        for key, value in fresh.items():
            assert torch.allclose(value.to(recorded[key].dtype), recorded[key], atol=1e-5, rtol=1e-4), key
