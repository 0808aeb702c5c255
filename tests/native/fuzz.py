"""Random shapes through the native library; `test_fuzz.py` runs this under AddressSanitizer.

    python tests/native/fuzz.py ROUNDS SEED

Memory that the library gets pointers to comes from malloc here, so that each access outside of it is seen.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import torch

from jukebox.make_models import half_matrices
from jukebox.native import steps
from jukebox.prior.autoregressive import ConditionalAutoregressive2D
from jukebox.prior.engine import Engine
from jukebox.prior.logits import SamplingOptions


def separate(size: int) -> Any:
    """Instead of large pages: memory that ends where it says."""
    return torch.empty(size, dtype=torch.uint8)


def one(draw: random.Random) -> None:
    order, heads, blocks = draw.randrange(13), draw.choice((1, 2, 3)), draw.choice((1, 2, 4))
    n_ctx = blocks * draw.choice((1, 3, 17, 40))
    values: dict[str, Any] = dict(
        width=4 * heads * draw.randrange(1, 30),
        heads=heads,
        depth={7: 17, 10: 20, 11: 33, 12: 33}.get(order, draw.choice((1, 4))),
        blocks=blocks,
        attn_order=order,
        m_mlp=draw.choice((0.5, 1.0, 4.0)),
        res_scale=draw.random() < 0.3,
        merged_decoder=draw.random() < 0.5,
    )
    if order == 4:
        values["spread"] = draw.randrange(1, n_ctx // blocks + 1)
    if order in (6, 7, 8, 10, 11):
        values["encoder_dims"] = draw.randrange(1, 9)
    if order == 12:
        values["prime_len"] = draw.randrange(1, n_ctx + 1)
    n, bins, with_cond = draw.randrange(1, 10), draw.randrange(1, 70), draw.random() < 0.7
    model = ConditionalAutoregressive2D((n_ctx,), bins, x_cond=with_cond, y_cond=with_cond, **values).eval()
    model.requires_grad_(False)
    kind = draw.choice((torch.float32, torch.bfloat16, torch.int8))
    half_matrices(model, kind)
    width, dtype = model.width, torch.bfloat16 if kind == torch.bfloat16 else torch.float32
    engine = Engine(
        model,
        n,
        torch.randn(n, draw.choice((1, n_ctx)), width) if with_cond else None,
        torch.randn(n, 1, width) if with_cond else None,
        torch.randn(n, model.encoder_dims, width) if model.encoder_dims else None,
        dtype,
        "native",
    )
    level = draw.randrange(3)
    make = steps.NativeSteps.__init__
    steps.NativeSteps.__init__ = lambda self, *a, **k: make(self, *a, **{**k, "level": level})  # type: ignore[method-assign]
    options = draw.choice((SamplingOptions(), SamplingOptions(top_k=draw.randrange(1, 99)), SamplingOptions(top_p=0.5)))
    tokens, noise = torch.randint(0, bins, (n_ctx, n)), torch.rand(n_ctx, n)
    torch.set_num_threads(draw.choice((1, 2, 3)))
    try:
        with torch.inference_mode():
            if draw.random() < 0.5 and n_ctx > 1:
                engine.prefill(tokens[: draw.randrange(1, n_ctx)].t())
            while engine.position < n_ctx:
                count = draw.randrange(1, n_ctx - engine.position + 1)
                logits = torch.empty(count, n, bins) if draw.random() < 0.3 else None
                engine.draw(tokens, noise, count, options, logits)
    finally:
        steps.NativeSteps.__init__ = make  # type: ignore[method-assign]
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < bins


def main(rounds: int, seed: int) -> None:
    steps._large_pages = separate
    draw = random.Random(seed)
    for _ in range(rounds):
        torch.manual_seed(draw.randrange(1 << 30))
        one(draw)
    print("rounds", rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
