"""Time of one token on a CPU: the native sampler, its PyTorch twin, other implementations, one pass over the weights.

    python benchmarks/sampling.py [--only=small] [--pairs=5] [--threads=2] [--peers]

All alternatives of a row run in turn, in one call, on weights of the same shape. `--peers` adds those of `peers.py`.
`floor` reads the bytes of the matrices once. `busy` rows run while two other processes keep both cores busy. Writes
results/sampling_cpu.json. On a machine with other work, --threads=1 and the processor time of its results say more.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from common import paired, parse_flags, save, show
from peers import install, start_all
from prior import CONFIGS, build

# Name, batch, position of the first token, tokens of a run, with two busy processes beside it.
ROWS = (
    ("tiny", 1, 0, 64, False),
    ("tiny", 4, 0, 64, False),
    ("tiny", 1, 0, 64, True),
    ("small", 1, 0, 8, False),
    ("small", 1, 8000, 8, False),
    ("small", 4, 0, 8, False),
    ("small", 4, 4096, 8, False),
    ("small", 1, 0, 8, True),
    ("1b", 1, 384, 2, False),
)
QUICK = ("tiny batch 1, position 0", "tiny batch 1, position 0, busy", "small batch 1, position 0")
PEERS_UP_TO = 4096  # tokens that a peer takes in before a row; more take it minutes
PRECISIONS = ("fp32", "bf16", "int8")


def spin() -> None:
    """Work of another program, without end."""
    x = 1.0
    while True:
        x = x * 1.0000001 + 1e-9


class Row:
    """One configuration at one position of the window, for all engines and precisions.

    Args:
        config: of CONFIGS; batch: songs; start: tokens that are taken as seen; tokens: drawn in one run.
    """

    def __init__(self, config: dict[str, Any], batch: int, start: int, tokens: int) -> None:
        self.config, self.batch, self.start, self.tokens = config, batch, start, tokens
        self.models: dict[str, Any] = {}

    def model(self, precision: str) -> Any:
        from jukebox.make_models import half_matrices
        from jukebox.utils.precision import matrix_dtype

        if precision not in self.models:
            model = build(self.config).eval().requires_grad_(False)
            half_matrices(model, matrix_dtype(precision))
            self.models[precision] = model
        return self.models[precision]

    def run(self, engine: str, precision: str) -> Callable[[], None]:
        import torch

        from jukebox.prior.engine import Engine, threads_for
        from jukebox.prior.logits import SamplingOptions
        from jukebox.utils.precision import torch_dtype

        model = self.model(precision)
        made = Engine(model, self.batch, dtype=torch_dtype(precision), engine=engine)
        shape = (model.input_dims, self.batch)
        tokens, noise = torch.zeros(shape, dtype=torch.long), torch.rand(shape)

        at = self.start

        def draw() -> None:
            nonlocal at  # goes on where the run before stopped, as the peers do
            at = self.start if at + self.tokens > model.input_dims else at
            made.position = at
            for cache in made.caches:
                cache.seen = at
            with torch.inference_mode(), threads_for(model):
                made.draw(tokens, noise, self.tokens, SamplingOptions())
            at += self.tokens

        return draw

    def floor(self, precision: str) -> Callable[[], float]:
        """Seconds for reading the matrices as often as the other runs do."""
        import time

        from jukebox.native.steps import _large_pages
        from jukebox.utils.precision import matrix_dtype

        model = self.model(precision)
        size = sum(m.w.numel() for layer in model.transformer.layers for m in layer.matrices())
        size = size * matrix_dtype(precision).itemsize + model.x_out.weight.numel() * 4
        import torch

        data = _large_pages(size // 4096 * 4096).fill_(1).view(torch.float32)

        def read() -> float:
            begin = time.perf_counter()
            for _ in range(self.tokens):
                data.sum()
            return time.perf_counter() - begin

        read()
        return read


def measure(row: tuple[str, int, int, int, bool], pairs: int, pythons: dict[str, str]) -> dict[str, Any]:
    """One row of ROWS: seconds and milliseconds per token of every alternative.

    Args:
        pairs: rounds that count; pythons: of `peers.install`.
    """
    from jukebox.utils.memory import free_bytes

    name, batch, start, tokens, busy = row
    config, results, others = CONFIGS[name], {}, []
    size = 4 * 12 * config["width"] ** 2 * config["depth"]
    if (2 + len(pythons)) * size > free_bytes("cpu"):
        print(f"{name}: not enough free memory for it beside the other implementations")
        return {}
    peers = (
        start_all(pythons, "sample", config, batch, tokens, start=start, runs=pairs + 2) if start <= PEERS_UP_TO else {}
    )
    bench = Row(config, batch, start, tokens)
    try:
        runs: dict[str, Callable[[], Any]] = {**peers, "PyTorch, fp32": bench.run("eager", "fp32")}
        for precision in ("fp32",) if busy else PRECISIONS:
            runs[f"native, {precision}"] = bench.run("native", precision)
            if not busy:
                runs[f"floor, {precision}"] = bench.floor(precision)
        for _ in range(2 * busy):
            others.append(multiprocessing.Process(target=spin, daemon=True))
            others[-1].start()
        results = paired(runs, pairs, baseline="PyTorch, fp32")
    finally:
        for process in (*others, *(peer.process for peer in peers.values())):
            process.kill()
    for found in results.values():
        found["ms per token"] = 1000 * found["median"] / tokens
        found["processor ms per token"] = 1000 * found["cpu"] / tokens
    return results


def title(row: tuple[str, int, int, int, bool]) -> str:
    name, batch, start, _, busy = row
    return f"{name} batch {batch}, position {start}{', busy' * busy}"


def main() -> None:
    args = parse_flags(__doc__, peers=dict(action="store_true", help="beside other implementations, installed for it"))
    pythons = install() if args.peers else {}
    results: dict[str, Any] = {}
    for row in ROWS:
        if args.only in title(row):
            results[title(row)] = measure(row, args.pairs, pythons)
            show(f"{title(row)}, ms per token", results[title(row)], row[3], "ms")
    if results and not args.only:
        save("sampling_cpu" if args.threads != 1 else "sampling_cpu_one_thread", results)


if __name__ == "__main__":
    main()
