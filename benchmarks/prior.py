"""Speed of the priors: sampling, prefill and training, beside a slow twin and, if at hand, another implementation.

    python benchmarks/prior.py [--peer=PYTHON] [--only=tiny] [--pairs=5]

`--peer` names a Python that has `transformers==4.57.6` (the last release with this model family); it is run as a black
box with random weights of the same shape, in turn with ours. Figures are ratios of paired runs, see `common.py`.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable
from typing import Any

from common import paired, save, show

CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": dict(n_ctx=1024, width=128, depth=6, heads=1, attn_order=2, blocks=32),
    "small": dict(n_ctx=8192, width=1024, depth=48, heads=1, attn_order=2, blocks=64),
}
TRAINING = dict(n_ctx=2048, width=256, depth=12, heads=1, attn_order=2, blocks=32)
BINS = 2048

PEER = """
import sys, time, logging
logging.disable(logging.CRITICAL)
import torch
from transformers import JukeboxPriorConfig
from transformers.models.deprecated.jukebox.modeling_jukebox import JukeboxConditionalAutoregressive
threads, job, n_ctx, width, depth, blocks, batch, tokens = map(int, sys.argv[1:])
torch.set_num_threads(threads)
config = JukeboxPriorConfig(attention_pattern="raw_column_previous_row_attention", blocks=blocks, num_layers=depth,
    hidden_size=width, n_heads=1, n_ctx=n_ctx, music_vocab_size=2048, merged_decoder=False, metadata_conditioning=False,
    is_encoder_decoder=False, mask=True, attention_multiplier=0.25)
model = JukeboxConditionalAutoregressive(config, n_ctx=n_ctx, embed_dim=2048, audio_conditioning=False,
    metadata_conditioning=False)
for p in model.parameters(): torch.nn.init.normal_(p, std=0.02)
model.fc_proj_out.device = torch.device("cpu")
codes = torch.randint(0, 2048, (batch, n_ctx))
def sample():
    with torch.no_grad(): model.sample(batch, sample_tokens=tokens)
def prefill():
    with torch.no_grad():
        model.primed_sample(batch, codes[:, :tokens], sample_tokens=tokens + 1, chunk_size=256)
def train():
    model(codes)[0].backward(); optimizer.step(); optimizer.zero_grad()
if job == 2:
    model.train(); optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
else:
    model.eval()
run = (sample, prefill, train)[job]
run() if job == 2 else None
for line in sys.stdin:
    start = time.perf_counter(); run(); print("TOOK", time.perf_counter() - start, flush=True)
"""


class Peer:
    """The other implementation in a process of its own, which runs its job whenever asked."""

    def __init__(self, python: str, job: int, config: dict[str, Any], batch: int, tokens: int) -> None:
        import torch

        numbers = [torch.get_num_threads(), job, *(config[k] for k in ("n_ctx", "width", "depth", "blocks"))]
        words = [python, "-c", PEER, *map(str, [*numbers, batch, tokens])]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __call__(self) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("TOOK"):
                return float(line.split()[1])
        raise RuntimeError("the peer stopped; run its Python by hand to see why")

    def close(self) -> None:
        self.process.kill()


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


def plain_sample(model: Any, batch: int, tokens: int) -> None:
    """The slow twin of sampling: each token through the modules, as in training, with caches."""
    import torch

    with torch.inference_mode():
        caches = model.transformer.new_caches(batch, torch.float32, "cpu")
        held = model.first(batch, None)
        for i in range(tokens):
            h = model.transformer(model.embed(held, i, None), None, caches)
            token = torch.distributions.Categorical(logits=model.x_out(h)).sample()
            held = model.x_emb(token)


def measure(title: str, ours: dict[str, Callable[[], Any]], peer: Peer | None, pairs: int, per: int) -> Any:
    runs = {**({"peer": peer} if peer else {}), **ours}
    try:
        results = paired(runs, pairs)
    finally:
        if peer:
            peer.close()
    show(title, results, per, "ms")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", default="", help="a Python that has transformers==4.57.6")
    parser.add_argument("--only", default="", help="part of the names of the rows to run")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as PyTorch takes")
    args = parser.parse_args()
    import torch

    from jukebox.prior.engine import Engine, generate

    if args.threads:
        torch.set_num_threads(args.threads)
    all_results: dict[str, Any] = {}

    def wanted(name: str) -> bool:
        return args.only in name

    def peer(job: int, config: dict[str, Any], batch: int, tokens: int) -> Peer | None:
        return Peer(args.peer, job, config, batch, tokens) if args.peer else None

    for name, tokens in (("tiny", 512), ("small", 24)):
        for batch in (1, 4):
            row = f"sampling {name} batch {batch}"
            if not wanted(row):
                continue
            model, half = build_frozen(CONFIGS[name]), build_frozen(CONFIGS[name], torch.bfloat16)
            ours = {
                "modules, token by token": lambda m=model, b=batch, t=tokens: plain_sample(m, b, t),
                "token step": lambda m=model, b=batch, t=tokens: generate(m, b, t),
                "token step, bf16": lambda m=half, b=batch, t=tokens: generate(m, b, t, dtype=torch.bfloat16),
            }
            opponent = peer(0, CONFIGS[name], batch, tokens)
            all_results[row] = measure(f"{row}, ms per token", ours, opponent, args.pairs, tokens)
    row = "prefill small 4096"
    if wanted(row):
        model, half = build_frozen(CONFIGS["small"]), build_frozen(CONFIGS["small"], torch.bfloat16)
        codes = torch.randint(0, BINS, (1, 4096))

        def prefill(chunk: int | None, m: Any = model, dtype: Any = torch.float32) -> None:
            with torch.inference_mode():
                Engine(m, 1, dtype=dtype).prefill(codes, chunk)

        ours = {
            "chunks of 32": lambda: prefill(32),
            "chunks of 256": lambda: prefill(256),
            "as memory allows": lambda: prefill(None),
            "as memory allows, bf16": lambda: prefill(None, half, torch.bfloat16),
        }
        opponent = peer(1, CONFIGS["small"], 1, 4096)
        all_results[row] = measure(f"{row}, ms", ours, opponent, max(1, args.pairs // 3), 1)
    row = "training step batch 4"
    if wanted(row):
        codes = torch.randint(0, BINS, (4, TRAINING["n_ctx"]))
        ours = {}
        for label, again in (("stored activations", 0), ("recomputed activations", 1)):
            trained = build(TRAINING, checkpoint_res=again).train()
            optimizer = torch.optim.Adam(trained.parameters(), lr=3e-4, foreach=True)

            def step(m: Any = trained, o: Any = optimizer) -> None:
                m(codes).loss.backward()
                o.step()
                o.zero_grad(set_to_none=True)

            ours[label] = step
        all_results[row] = measure(f"{row}, ms", ours, peer(2, TRAINING, 4, 0), args.pairs, 1)
    if all_results and not args.only:
        save("prior_cpu", all_results)


if __name__ == "__main__":
    main()
