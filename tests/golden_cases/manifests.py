"""Names, shapes and types of every parameter of the released and the small models: `manifest_*`.

Built on the meta device, so that even 5 billion parameters take no memory.
"""

from __future__ import annotations

from typing import Any

import torch

from golden_cases.checks import Check, case
from golden_cases.prior import check_facts
from jukebox.hparams import setup_hparams
from jukebox.make_models import build_prior, make_vqvae
from jukebox.utils.torch_utils import count_parameters


def _sets(manifest: dict[str, Any]) -> str:
    if "hps" in manifest:
        return manifest["hps"]
    return manifest["name"] if "vqvae" in manifest["name"] else f"vqvae,{manifest['name']}"


@case("manifest_*")
def manifest(data: dict[str, Any], check: Check) -> None:
    facts = data["facts"]
    is_prior = "prior" in data["name"] or "upsampler" in data["name"]
    overrides = dict(data.get("overrides", {}), restore_vqvae="", restore_prior="")
    if "sample_length" not in overrides and not is_prior:  # the context decides it for a prior
        overrides["sample_length"] = facts["sample_length"]
    for train in (True, False):
        hps = setup_hparams(_sets(data), dict(overrides, train=train, prior=is_prior))
        vqvae = make_vqvae(hps, "cpu")
        if is_prior:
            with torch.device("meta"):
                model: Any = build_prior(hps, vqvae)
            check_facts(check, model, facts)
        else:
            model = vqvae
            for name in ("levels", "multipliers", "l_bins", "sample_length"):
                check.equal(name, getattr(model, name), facts[name])
            check.equal("downsamples", list(model.downsamples), facts["downsamples"])
            check.equal("hop_lengths", [int(h) for h in model.hop_lengths], facts["hop_lengths"])
            check.equal("z_shapes", [list(s) for s in model.z_shapes], facts["z_shapes"])
            check.equal("x_shape", list(model.x_shape), facts["x_shape"])
        state = model.state_dict()
        got = {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()}
        check.equal("keys in order", list(got), list(data["state_dict"]))
        check.equal("shapes and types", got, data["state_dict"])
        check.equal("n_keys", len(got), data["n_keys"])
        check.equal("n_parameters", count_parameters(model), data["n_parameters"])
        check.equal("n_state_elements", sum(value.numel() for value in state.values()), data["n_state_elements"])
        check.equal("buffers", [name for name, _ in model.named_buffers()], data["buffers"])
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        check.equal("shared", [sorted(n) for n in names.values() if len(n) > 1], data["shared_parameters"])
