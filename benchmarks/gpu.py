"""Proves and times everything that runs on a GPU: golden cases, engines beside their twin, tokens, passes, training.

    python benchmarks/gpu.py [--short]

Needs PyTorch and numpy, Triton for the fused engine, and neither audio libraries nor a network. On a card it prints a
table and writes `results/gpu_*.json` with card, driver and versions. Without a card it runs its shortest form on the
CPU, small models and few tokens, and writes nothing. Weights are random, at the released sizes. Exit status 1 if a
golden case, an engine or a part of the script fails. A figure that is extrapolated says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import ROOT, machine, save

CPU_FORM = not os.path.exists("/proc/driver/nvidia/version")
if CPU_FORM:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before the first import of Triton
sys.path.append(str(ROOT / "apex"))

import torch  # noqa: E402

from jukebox.hparams import setup_hparams  # noqa: E402
from jukebox.make_models import half_matrices  # noqa: E402
from jukebox.prior.autoregressive import ConditionalAutoregressive2D  # noqa: E402
from jukebox.prior.engine import TOLERANCE, Engine, forget_failures, generate  # noqa: E402
from jukebox.prior.fixed_steps import why_not_fused  # noqa: E402
from jukebox.prior.logits import SamplingOptions  # noqa: E402
from jukebox.utils.files import load_torch  # noqa: E402
from jukebox.utils.float32 import keep_float32  # noqa: E402

BINS = 2048
BATCHES = (1, 4, 16)
ROOM = 60e9  # bytes that the processes which build kernels take on a card together
TWIN_ORDERS = range(13)
WITH_ENCODER = (6, 7, 8, 10, 11)
# Name -> context, width, layers, heads, order, blocks, encoder length, lyrics in front, all as released.
SIZES: dict[str, dict[str, Any]] = {
    "upsampler": dict(n_ctx=8192, width=1920, depth=72, heads=1, attn_order=2, blocks=128),
    "1b_lyrics": dict(n_ctx=6528, width=2048, depth=72, heads=2, attn_order=12, blocks=64, prime_len=384),
    "5b_lyrics": dict(n_ctx=8192, width=4800, depth=79, heads=8, attn_order=10, blocks=128, encoder_dims=512),
}
# New tokens, given tokens and windows of each level for 20 s, top first.
TWENTY_SECONDS = {"5b_lyrics": (6890, 0, 1), "level 1": (27560, 21592, 6), "level 0": (110240, 102752, 26)}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device, work: Callable[[], Any], rounds: int = 3) -> float:
    """Median milliseconds of some calls, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        wait(device)
        begin = time.perf_counter()
        work()
        wait(device)
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times[1:])


def build(device: torch.device, dtype: torch.dtype, n_ctx: int, std: float = 0.02, **config: Any) -> Any:
    """A model with random weights made on the device, its matrices in `dtype`."""
    config = {"m_attn": 0.25, "m_mlp": 1.0, "spread": 2 if config.get("attn_order") == 4 else None, **config}
    with torch.device("meta"):
        model = ConditionalAutoregressive2D((n_ctx,), config.pop("bins", BINS), x_cond=True, y_cond=True, **config)
    model.requires_grad_(False).eval()
    half_matrices(model, dtype)
    model.to_empty(device=device)
    model.x_out.weight = model.x_emb.weight
    for parameter in model.parameters():
        parameter.normal_(0, std)
    return model


def conditioning(model: Any, n: int, device: torch.device) -> dict[str, Any]:
    encoder = model.encoder_dims
    return dict(
        x_cond=torch.randn(n, model.input_dims, model.width, device=device) * 0.02,
        y_cond=torch.randn(n, 1, model.width, device=device) * 0.02,
        encoder_kv=torch.randn(n, encoder, model.width, device=device) if encoder else None,
    )


def engines_of(device: torch.device) -> list[str]:
    return [*([] if why_not_fused(device) else ["fused"]), "graph", "eager"]


def golden(device: torch.device, short: bool) -> dict[str, Any]:
    """Runs the reference's cases; returns how many passed, and those that did not."""
    words = [sys.executable, "tests/golden.py", "tests/golden", *(["attn*"] if short else [])]
    done = subprocess.run([*words, f"--device={device.type}"], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    failed = [line.strip() for line in lines if line.strip().startswith("FAIL")]
    passed = sum(line.strip().startswith("ok") for line in lines)
    if done.returncode and not failed:
        failed = (done.stdout + done.stderr).strip().splitlines()[-1:]
    skipped = [line.strip() for line in lines if line.strip().startswith("skip")]
    return {"passed": passed, "skipped": skipped, "failed": failed}


def in_parallel(*shards: list[str]) -> Iterator[dict[str, Any]]:
    """This script once for each shard, all at once, since what takes time is building kernels; what each printed."""
    command = [sys.executable, __file__]
    running = [
        subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for words in shards
    ]
    for words, one in zip(shards, running, strict=True):
        said = one.communicate()[0].strip().splitlines() or [""]
        try:
            yield json.loads(said[-1])
        except ValueError:
            yield {"failed": [f"{' '.join(words)}: status {one.returncode}, {said[-1]}"]}


def twins(device: torch.device, short: bool) -> dict[str, Any]:
    """Every order and type by every engine, beside eager."""
    if short:
        return twins_of((2, 4), device, short)
    worst: dict[str, float] = {}
    failed: list[str] = []
    roomy = torch.cuda.get_device_properties(device).total_memory > ROOM  # else each is built when it is timed
    sizes = [["--build", name, str(n)] for name in SIZES for n in BATCHES if roomy]
    for found in in_parallel(*(["--twins", str(order)] for order in TWIN_ORDERS), *sizes):
        failed += found.get("failed", [])
        for name, off in found.get("worst", {}).items():
            worst[name] = max(worst.get(name, 0.0), off)
    return {"worst": worst, "failed": failed}


def build_kernels(name: str, n: int, device: torch.device) -> dict[str, Any]:
    """Builds the fused kernels of a size, on a model of fewer layers, so that they lie on disk when it is timed."""
    size = {**SIZES[name], "depth": {"upsampler": 3, "1b_lyrics": 17, "5b_lyrics": 20}[name]}
    model = build(device, torch.float16, **size)
    run = Engine(model, n, **conditioning(model, n, device), dtype=torch.float16)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        drawn = torch.zeros(model.input_dims, n, dtype=torch.long, device=device)
        run.draw(drawn, torch.rand(model.input_dims, n, device=device), 3, SamplingOptions())
    return {"failed": [f"{name}, batch {n}: {line.message}" for line in said]}


def twins_of(orders: Iterable[int], device: torch.device, short: bool) -> dict[str, Any]:
    """Orders, by every type and engine: logits of the same tokens beside eager, relative to the largest."""
    worst: dict[str, float] = {}
    failed = []
    types = [torch.float32] if short else list(TOLERANCE)
    for order in orders:
        depth = {7: 17, 10: 20, 11: 33, 12: 33}.get(order, 3 if short else 5)
        config = dict(n_ctx=24, width=64, heads=2, attn_order=order, blocks=4, depth=depth, bins=37)
        config.update(encoder_dims=5 if order in WITH_ENCODER else None, prime_len=6 if order == 12 else None)
        for dtype in types:
            model = build(device, dtype, std=0.15, **config)
            for n in (2,) if short else (1, 3, 16):
                forget_failures()
                given = {**conditioning(model, n, device), "noise": torch.rand(n, 24)}
                runs = {}
                for engine in engines_of(device):
                    with warnings.catch_warnings(record=True) as said:
                        warnings.simplefilter("always")
                        runs[engine] = generate(
                            model, n, 3 if short else 24, None, **_cut(given, short), dtype=dtype, get_logits=True,
                            engine=engine,
                        )  # fmt: skip
                    failed += [f"{engine}, order {order}, {dtype}, batch {n}: {line.message}" for line in said]
                tokens, logits = runs.pop("eager")
                for engine, (drawn, own) in runs.items():
                    equal = (drawn == tokens).all(0).int().cumprod(0).sum().item()  # up to the first that differs
                    checked = min(equal + 1, tokens.shape[1])
                    off = float((own - logits)[:, :checked].abs().max() / logits.abs().max())
                    name = f"{engine} {dtype}".replace("torch.", "")
                    worst[name] = max(worst.get(name, 0.0), off)
                    if off > TOLERANCE[dtype] or (dtype == torch.float32 and equal < tokens.shape[1]):
                        failed.append(f"{engine}, order {order}, {dtype}, batch {n}: off by {off:.2g}")
    return {"worst": worst, "failed": failed}


def _cut(given: dict[str, Any], short: bool) -> dict[str, Any]:
    return {**given, "noise": given["noise"][:, :3] if short else given["noise"]}


def tokens(device: torch.device, short: bool) -> dict[str, Any]:
    """Milliseconds a token in the middle of the window, each engine in turn; prefill of what is before; peak memory."""
    found: dict[str, Any] = {}
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    for name, size in SIZES.items():
        size = {**size, **(dict(n_ctx=512, width=64, depth=2) if short else {})}
        model = build(device, dtype, **size)
        for n in (1,) if short else BATCHES:
            row = found[f"{name}, batch {n}"] = {}
            try:
                _fill_row(row, model, n, dtype, device, short)
            except torch.OutOfMemoryError:
                row["the rest"] = "does not fit on this card"
            except Exception as error:  # the other rows are still worth their time
                found.setdefault("failed", []).append(f"{name}, batch {n}: {type(error).__name__}: {error}")
        del model
    return found


def _fill_row(row: dict[str, Any], model: Any, n: int, dtype: torch.dtype, device: torch.device, short: bool) -> None:
    given, middle = conditioning(model, n, device), model.input_dims // 2
    noise = torch.rand(model.input_dims, n, device=device)
    for engine in engines_of(device):
        forget_failures()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        row[engine] = _token(model, n, given, middle, noise, dtype, engine, device, short)
        if device.type == "cuda":
            row[f"{engine}, peak GiB"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    run = Engine(model, n, **given, dtype=dtype, engine="eager")
    prompt = torch.zeros(n, middle, dtype=torch.long, device=device)
    row[f"prefill of {middle}"] = clock(device, lambda: _again(run, prompt), 1)


def _again(run: Engine, prompt: torch.Tensor) -> None:
    for cache in run.caches:
        cache.seen = 0
    run.prefill(prompt)


def _token(
    model: Any, n: int, given: Any, middle: int, noise: Any, dtype: Any, engine: str, device: torch.device, short: bool
) -> float:
    run = Engine(model, n, **given, dtype=dtype, engine=engine)
    drawn = torch.zeros(model.input_dims, n, dtype=torch.long, device=device)
    run.prefill(drawn[:middle].t())
    count = 1 if short else 16 if engine == "eager" else 64
    run.draw(drawn, noise, 3, SamplingOptions())  # made both ways, built and captured
    took = clock(device, lambda: run.draw(drawn, noise, count, SamplingOptions()), 1 if short else 3)
    if run.engine != engine:
        raise RuntimeError(f"{engine} gave way to {run.engine}")
    return took / count


def passes(device: torch.device, short: bool) -> dict[str, float]:
    """Milliseconds of the VQ-VAE's encoder and decoder, of the conditioner, and of loading an upsampler's file."""
    from jukebox.make_models import make_vqvae
    from jukebox.prior.conditioners import Conditioner

    found = {}
    seconds = 1 if short else 20
    length = seconds * 44100 // 128 * 128
    vqvae = make_vqvae(setup_hparams("vqvae", dict(sample_length=length, train=False, restore_vqvae="")), device)
    audio = torch.rand(1, length, 1, device=device) - 0.5
    codes = vqvae.encode(audio)
    rounds = 1 if short else 3
    found[f"encode {seconds} s"] = clock(device, lambda: vqvae.encode(audio), rounds)
    found[f"decode level 0, {seconds} s"] = clock(device, lambda: vqvae.decode(codes), rounds)
    hps = setup_hparams("upsampler_level_0", {})
    codes_above, width = (64, 64) if short else (hps.n_ctx // 4, hps.prior_width)
    stack = dict(width=64, depth=2) if short else dict(width=hps.cond_width, depth=hps.cond_depth)
    stack.update(m_conv=hps.cond_m_conv, dilation_growth_rate=hps.cond_dilation_growth_rate)
    stack.update(dilation_cycle=hps.cond_dilation_cycle)
    conditioner = Conditioner((codes_above,), BINS, 2, 2, width, **stack).to(device).eval()
    above = torch.zeros(1 if short else 16, codes_above, dtype=torch.long, device=device)
    found[f"conditioner of {len(above)} songs"] = clock(device, lambda: conditioner(above), rounds)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.pt"
        size = {**SIZES["upsampler"], **(dict(n_ctx=256, width=64, depth=3) if short else {})}
        torch.save(build(torch.device("cpu"), torch.float32, **size).state_dict(), file)

        def load() -> None:
            content = load_torch(file, mmap=True)
            for tensor in content.values():
                (tensor.half() if tensor.dim() == 2 else tensor).to(device)

        found["load an upsampler"] = clock(device, load, 1)
    return found


def training(device: torch.device, short: bool) -> dict[str, Any]:
    """A step of `small_prior`: forward, backward and Adam over 8 windows in bfloat16, layers recomputed."""
    hps = setup_hparams("small_prior", {})
    size: dict[str, Any] = dict(n_ctx=hps.n_ctx, width=hps.prior_width, depth=hps.prior_depth, heads=hps.heads)
    if short:
        size.update(n_ctx=256, width=64, depth=3)
    n = 1 if short else 8
    model = ConditionalAutoregressive2D(
        (size.pop("n_ctx"),), BINS, attn_order=2, blocks=64 if not short else 8, checkpoint_res=1, **size
    ).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    codes = torch.randint(0, BINS, (n, model.input_dims), device=device)

    def step() -> None:
        loss = model(codes, dtype=torch.bfloat16).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    found = {f"small_prior, {n} windows, bf16": clock(device, step, 1 if short else 3)}
    if device.type == "cuda":
        found["peak GiB"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    return found


def whole_run(times: dict[str, Any], engine: str) -> dict[str, Any]:
    """20 s of 5b_lyrics, one song: the tokens and prefills of all windows by the milliseconds measured above."""
    seconds = 0.0
    for level, (new, given, _) in TWENTY_SECONDS.items():
        row = times[f"{level if level in SIZES else 'upsampler'}, batch 1"]
        middle, prefill = next((int(k.split()[-1]), v) for k, v in row.items() if k.startswith("prefill"))
        seconds += (new * row[engine] + given * prefill / middle) / 1000
    return {"20 s of 5b_lyrics, extrapolated, s": seconds, "engine": engine}


@contextmanager
def part(name: str, report: dict[str, Any]) -> Iterator[None]:
    """A part of the script; what it raises is noted, and the other parts still run."""
    begin = time.perf_counter()
    try:
        yield
    except Exception as error:
        report.setdefault("failed", []).append(f"{name}: {type(error).__name__}: {error}")
    report.setdefault("seconds", {})[name] = round(time.perf_counter() - begin, 1)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def show(report: dict[str, Any]) -> None:
    for title, rows in report.items():
        print(f"\n{title}")
        for name, value in rows.items() if isinstance(rows, dict) else ((line, "") for line in rows):
            cells = value if isinstance(value, dict) else {"": value}
            said = ", ".join(f"{k} {v:.2f}".strip() if isinstance(v, float) else f"{k} {v}" for k, v in cells.items())
            print(f"  {name:40} {said}")


def driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="small models and few tokens, as without a card")
    parser.add_argument("--twins", type=int, metavar="ORDER", help=argparse.SUPPRESS)
    parser.add_argument("--build", nargs=2, metavar=("SIZE", "BATCH"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    short = given.short or device.type == "cpu"
    report: dict[str, Any] = {}
    if given.twins is not None or given.build:
        with keep_float32(), torch.inference_mode():
            found = (
                build_kernels(given.build[0], int(given.build[1]), device)
                if given.build
                else twins_of([given.twins], device, short)
            )
        print(json.dumps(found))
        return 0
    with keep_float32():
        for name, run in (("golden", golden), ("twins", twins), ("tokens", tokens), ("passes", passes)):
            with part(name, report), torch.inference_mode():
                report[name] = run(device, short)
        with part("training", report):
            report["training"] = training(device, short)
    if "tokens" in report and not short:
        report["whole run"] = whole_run(report["tokens"], engines_of(device)[0])
    failed = [
        *report.get("failed", []),
        *(f for p in ("golden", "twins", "tokens") for f in report.get(p, {}).get("failed", [])),
    ]
    show(report)
    if device.type == "cuda" and not short:
        name = torch.cuda.get_device_name(device).lower().replace(" ", "_")
        save(f"gpu_{name}", {"driver": driver(), "fused": why_not_fused(device) or "runs", **report})
    else:
        print(f"\nthe short form on {device.type} ({machine()['processor']}): it tests this script, and writes nothing")
    print(f"{len(failed)} failures" if failed else "all agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
