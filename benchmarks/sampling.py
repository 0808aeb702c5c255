"""Time of one token on a CPU: the native sampler beside its PyTorch twin, and beside one pass over the weights.

    python benchmarks/sampling.py [--only=small] [--pairs=5] [--threads=2]

All alternatives of a row run in turn, in one process, on weights of the same shape. `floor` reads the bytes of the
matrices once. `busy` rows run while two other processes keep both cores busy. Writes results/sampling_cpu.json. On a
machine with other work, --threads=1 and the processor time of its results say more.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from typing import Any

from common import paired, save, show
from prior import CONFIGS, build

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

        def draw() -> None:
            made.position = self.start
            for cache in made.caches:
                cache.seen = self.start
            with torch.inference_mode(), threads_for(model):
                made.draw(tokens, noise, self.tokens, SamplingOptions())

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="part of the names of the rows to run")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as PyTorch takes")
    args = parser.parse_args()
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    results: dict[str, Any] = {}
    for name, batch, start, tokens, busy in (
        ("tiny", 1, 0, 256, False),
        ("tiny", 4, 0, 256, False),
        ("tiny", 1, 0, 256, True),
        ("small", 1, 0, 8, False),
        ("small", 1, 8000, 8, False),
        ("small", 4, 0, 8, False),
        ("small", 4, 4096, 8, False),
        ("small", 1, 0, 8, True),
    ):
        title = f"{name} batch {batch}, position {start}{', busy' * busy}"
        if args.only not in title:
            continue
        row = Row(CONFIGS[name], batch, start, tokens)
        runs: dict[str, Callable[[], Any]] = {"PyTorch, fp32": row.run("eager", "fp32")}
        for precision in ("fp32",) if busy else PRECISIONS:
            runs[f"native, {precision}"] = row.run("native", precision)
            if not busy:
                runs[f"floor, {precision}"] = row.floor(precision)
        others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(2 * busy)]
        for process in others:
            process.start()
        results[title] = paired(runs, args.pairs)
        for process in others:
            process.kill()
        for found in results[title].values():
            found["ms per token"] = 1000 * found["median"] / tokens
            found["processor ms per token"] = 1000 * found["cpu"] / tokens
        show(f"{title}, ms per token", results[title], tokens, "ms")
    if results and not args.only:
        save("sampling_cpu" if args.threads != 1 else "sampling_cpu_one_thread", results)


if __name__ == "__main__":
    main()
