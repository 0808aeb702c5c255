"""What rounded weights cost the demo model: mean KL divergence per token against fp32, over songs that it made.

    python benchmarks/precision.py [--seconds=12] [--songs=2]

The same tokens go through the prior of each level in fp32 and with matrices in bf16 and int8, arithmetic in float32 as
in the native sampler. Writes results/precision.json.
"""

from __future__ import annotations

import argparse
from typing import Any

from common import save

LYRICS = "mila sola timi\nkalu mesi loki\nsama tole kisu"
KINDS = ("bf16", "int8")


def rounded(model: Any, kind: str) -> None:
    """Rounds the matrices of all dense layers; what is computed with them stays in float32."""
    import torch

    from jukebox.make_models import half_matrices

    half_matrices(model, torch.int8 if kind == "int8" else torch.bfloat16)


def measure(prior: Any, zs: Any, labels: Any) -> dict[str, float]:
    """Mean KL(fp32 || rounded) in nats per token and the share of tokens whose likeliest symbol stays."""
    import torch

    from jukebox.make_models import half_matrices

    level, n_ctx = prior.level, prior.n_ctx
    starts = range(0, zs[level].shape[1] - n_ctx + 1, n_ctx)[:4]

    def logits() -> torch.Tensor:
        found = []
        for start in starts:
            y, conds = prior.get_y(labels, start), prior.get_z_conds(zs, start, start + n_ctx)
            with torch.no_grad():
                found.append(
                    prior.z_forward(zs[level][:, start : start + n_ctx], conds or (), y, get_preds=True)[1]["preds"]
                )
        out = torch.cat(found, dim=1)
        return out if prior.merged is None else out[:, prior.n_tokens :]

    weights = {name: value.clone() for name, value in prior.state_dict().items()}
    want = logits().log_softmax(-1)
    results: dict[str, float] = {}
    for kind in KINDS:
        rounded(prior, kind)
        got = logits().log_softmax(-1)
        results[f"{kind} KL"] = float((want.exp() * (want - got)).sum(-1).mean())
        results[f"{kind} same likeliest"] = float((want.argmax(-1) == got.argmax(-1)).float().mean())
        for module in prior.modules():
            if hasattr(module, "to_int8"):
                module.scale = None
        half_matrices(prior, torch.float32)
        prior.load_state_dict(weights)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--songs", type=int, default=2)
    args = parser.parse_args()
    import torch

    import jukebox
    from jukebox.loaders import find_model

    songs = jukebox.load("demo", device="cpu").sample(
        LYRICS, "anna bell", "disco", args.seconds, args.songs, total_seconds=args.seconds
    )
    data = songs._data
    model, device = find_model("demo"), torch.device("cpu")
    vqvae = model.vqvae(int(args.seconds * model.sr), device)
    results = {}
    for level in reversed(range(len(model.levels))):
        lazy = model.prior(level, vqvae, device)
        assert lazy is not None
        results[f"level {level}"] = measure(lazy.load(), data["zs"], data["labels"][level])
        print(f"level {level}", results[f"level {level}"])
    save("precision", results)


if __name__ == "__main__":
    main()
