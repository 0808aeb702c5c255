"""Speed of the priors on a CPU: taking a prompt in, and a training step, beside other implementations if wanted.

    python benchmarks/prior.py [--only=prefill] [--pairs=3] [--peers]

`--peers` adds those of `peers.py`, on weights of the same shape, in turn with ours. Sampling is in `sampling.py`.
Figures are ratios of paired runs, see `common.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import paired, parse_flags, save, show
from peers import install, start_all

CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": dict(n_ctx=1024, width=128, depth=6, heads=1, attn_order=2, blocks=32),
    "small": dict(n_ctx=8192, width=1024, depth=48, heads=1, attn_order=2, blocks=64),
    "1b": dict(n_ctx=6528, width=2048, depth=72, heads=2, attn_order=12, blocks=64, prime_len=384, merged_decoder=True),
}
TRAINING = dict(n_ctx=2048, width=256, depth=12, heads=1, attn_order=2, blocks=32)
BINS = 2048


def build(config: dict[str, Any], **more: Any) -> Any:
    from jukebox.prior.autoregressive import ConditionalAutoregressive2D

    values = dict(config)
    return ConditionalAutoregressive2D((values.pop("n_ctx"),), BINS, **values, **more)


def build_frozen(config: dict[str, Any], dtype: Any = None) -> Any:
    """For sampling, as `sample.py` loads it: matrices in their final type."""
    from jukebox.make_models import half_matrices

    model = build(config).eval().requires_grad_(False)
    if dtype is not None:
        half_matrices(model, dtype)
    return model


def prefills(tokens: int) -> dict[str, Callable[[], Any]]:
    """Ways to take in a prompt of `tokens` with the `small` prior."""
    import torch

    from jukebox.prior.engine import Engine

    model, half = build_frozen(CONFIGS["small"]), build_frozen(CONFIGS["small"], torch.bfloat16)
    codes = torch.randint(0, BINS, (1, tokens))

    def prefill(chunk: int | None, m: Any = model, dtype: Any = torch.float32) -> None:
        with torch.inference_mode():
            Engine(m, 1, dtype=dtype).prefill(codes, chunk)

    return {
        "chunks of 256": lambda: prefill(256),
        "as memory allows": lambda: prefill(None),
        "as memory allows, bf16": lambda: prefill(None, half, torch.bfloat16),
    }


def trainings() -> dict[str, Callable[[], Any]]:
    """A training step of the prior TRAINING on a batch of 4, with stored and with recomputed activations."""
    import torch

    codes = torch.randint(0, BINS, (4, TRAINING["n_ctx"]))
    steps = {}
    for label, again in (("stored activations", 0), ("recomputed activations", 1)):
        trained = build(TRAINING, checkpoint_res=again).train()
        optimizer = torch.optim.Adam(trained.parameters(), lr=3e-4, foreach=True)

        def step(m: Any = trained, o: Any = optimizer) -> None:
            m(codes).loss.backward()
            o.step()
            o.zero_grad(set_to_none=True)

        steps[label] = step
    return steps


def measure(row: str, pairs: int, pythons: dict[str, str], tokens: int = 4096) -> dict[str, Any]:
    """Seconds of every alternative of a row, `prefill small` or `training step`.

    Args:
        pairs: rounds that count; pythons: of `peers.install`; tokens: of the prompt.
    """
    if row == "prefill small":
        ours, peers = prefills(tokens), start_all(pythons, "prefill", CONFIGS["small"], 1, tokens)
    else:
        ours, peers = trainings(), start_all(pythons, "train", TRAINING, 4, 0)
    try:
        return paired({**peers, **ours}, pairs)
    finally:
        for peer in peers.values():
            peer.close()


def main() -> None:
    args = parse_flags(
        __doc__, pairs=dict(type=int, default=3), peers=dict(action="store_true", help="beside other implementations")
    )
    pythons = install() if args.peers else {}
    results: dict[str, Any] = {}
    for row in ("prefill small", "training step"):
        if args.only in row:
            results[row] = measure(row, args.pairs, pythons)
            show(row, results[row])
    if results and not args.only:
        save("prior_cpu", results)


if __name__ == "__main__":
    main()
