"""What a run will cost, before any weight is read: windows, tokens, memory and time of each level.

Counting is arithmetic on hyper-parameters: modules are built on the meta device, caches are sized by their patterns.
Time is an estimate. The level's own transformer is built on the device, with only as many layers as do not fit the
caches. A chunk and some tokens are run through it, and the result is scaled to all layers, tokens and songs. Change
here what is counted; what windows there are is decided by `schedule` of `utils/sample_utils.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from jukebox.loaders import Level, Model, bare_prior
from jukebox.make_models import half_matrices
from jukebox.prior.engine import BYTES_PER_NUMBER, SMALLEST_CHUNK, Engine
from jukebox.prior.logits import SamplingOptions
from jukebox.prior.prior import SimplePrior
from jukebox.sampling.prompts import starting_lengths
from jukebox.sampling.report import Silent
from jukebox.sampling.settings import Settings
from jukebox.sampling.state import RunState
from jukebox.transformer.kv_cache import slots
from jukebox.utils.errors import UserError
from jukebox.utils.memory import free_bytes
from jukebox.utils.precision import half_dtype, matrix_dtype, torch_dtype
from jukebox.utils.sample_utils import Window, schedule
from jukebox.utils.torch_utils import empty_cache
from jukebox.vqvae.vqvae import VQVAE

RESERVE = 0.9  # share of the free memory that a run plans with
_SONGS = {"cpu": 4}  # most songs that are timed at once; 32 on other devices
_BUDGET = 1.0  # seconds after which no further token is timed
# A CUDA graph keeps memory of its own: a segment of large and one of small tensors, and work space of the products for
# the stream of the capture and the one of the step before it.
_POOL = 2 * (32 << 20) + (20 << 20) + (2 << 20)
_PARTS = 32  # most parts of the keys of a query that fused kernels keep, see `_splits` of apex.decode
_SUMS = 384 * 64  # and the sums that the programs of a product keep for each song, see `_shares` there


@dataclass(frozen=True)
class LevelPlan:
    """Cost of one level on one process. Bytes are on the device.

    Attributes:
        windows: that are still to be made.
        songs: made by this process.
        weights: bytes of the prior in its final type, of what the engine packs, and of its graph.
        per_song: bytes of caches, conditioning, prefill and static buffers for one song of a batch.
        batch: songs at a time; chunk: most given tokens in one pass, None for as many as fit.
        seconds: estimate for all songs; None if it was not asked for.
    """

    level: int
    n_ctx: int
    windows: list[Window]
    songs: int
    weights: int
    per_song: int
    batch: int
    chunk: int | None
    seconds: float | None = None

    @property
    def new_tokens(self) -> int:
        """Per song."""
        return sum(window.new for window in self.windows)

    @property
    def prefill_tokens(self) -> int:
        """Given tokens that are run again, per song."""
        return sum(window.known for window in self.windows)

    @property
    def memory(self) -> int:
        return self.weights + self.batch * self.per_song


def plan_level(
    settings: Settings, level: int, known: int, songs: int, vqvae: VQVAE, free: int, device: torch.device
) -> LevelPlan:
    """Plans one level.

    Args:
        settings: with the type of matrices and arithmetic, and the engine.
        known: tokens of the level that are there already.
        songs: number of songs of this process.
        vqvae: any VQ-VAE of the model, also one on the meta device; its weights are on the device too.
        free: bytes that the device has left, for the choice of the batch.
    """
    found = settings.model.levels[level]
    assert found is not None
    total, hop = settings.totals()[level], settings.new_per_window()[level]
    windows = schedule(total, found.n_ctx, hop, known)
    prior, chunk = bare_prior(found, vqvae), settings.chunk[level]
    engine = settings.engine if settings.engine != "auto" else "graph" if device.type == "cuda" else "eager"
    weights = prior_bytes(prior, settings.dtype) + sum(p.numel() * 4 for p in vqvae.parameters())
    weights += packed_bytes(prior, settings.dtype, engine) + pool_bytes(engine, device)
    per_song = song_bytes(prior, settings.dtype, engine, chunk)
    room = int(free * RESERVE) - weights
    batch = settings.batch[level] or max(1, min(songs, room // per_song if room > 0 else 1))
    return LevelPlan(level, found.n_ctx, windows, songs, weights, per_song, min(batch, songs), chunk)


def prior_bytes(prior: SimplePrior, dtype: str) -> int:
    """Bytes of a prior's parameters, its matrices in `dtype` and all else in float32; shared ones count once."""
    size = matrix_dtype(dtype).itemsize
    matrices = {id(module.w) for module in prior.modules() if type(module).__name__ == "Conv1D"}
    return sum(p.numel() * (size if id(p) in matrices else 4) for p in prior.parameters())


def packed_bytes(prior: SimplePrior, dtype: str, engine: str) -> int:
    """Bytes that an engine adds to the weights: copies in the type of the arithmetic, and a matrix that is moved.

    The native library and fused kernels move a matrix at a time into another order, so no second copy stays.
    """
    size = torch_dtype(dtype).itemsize
    matrices = [module for layer in prior.prior.transformer.layers for module in layer.matrices()]
    largest = max(module.w.numel() for module in matrices)
    if engine == "native":  # into one region: each matrix is freed when it is there
        return largest * matrix_dtype(dtype).itemsize
    copies = sum(module.b.numel() for module in matrices) * size if size != 4 else 0
    if matrix_dtype(dtype) != torch_dtype(dtype):
        copies += sum(module.w.numel() for module in matrices) * size * (2 if engine == "fused" else 1)
    return copies + (largest * size if engine == "fused" else 0)


def pool_bytes(engine: str, device: torch.device) -> int:
    """Bytes that a graph keeps besides its tensors."""
    return _POOL if device.type == "cuda" and engine in ("graph", "fused") else 0


def song_bytes(prior: SimplePrior, dtype: str, engine: str = "eager", chunk: int | None = None) -> int:
    """Bytes that one song of a batch takes.

    Counted are keys and values as their patterns keep them, conditioning, tokens and noise, and what a step of the
    engine keeps or needs. Of given tokens one pass is counted: of `chunk`, or of as few as the engine begins with.
    """
    size = torch_dtype(dtype).itemsize
    model = prior.prior
    length, width = model.input_dims, model.width
    layers = model.transformer.layers
    cache = sum(2 * slots(layer.attn.pattern) * layer.attn.n_state for layer in layers) * size
    conditioning = 2 * length * width * 4  # x_cond, and once more while it is made
    prefill = min(length, chunk or SMALLEST_CHUNK) * width * BYTES_PER_NUMBER
    tokens = length * (8 + 2 * 4)  # and the numbers that decide them, turned
    logits = 8 * model.bins * 4  # as they are, by temperature, kept ones, their shares, sums
    widest = max(width, *(module.w.shape[1] for layer in layers for module in layer.matrices()))
    step = 6 * widest * 4
    if engine == "fused":
        step += (_PARTS * max(layer.attn.n_state for layer in layers) + _SUMS) * 4
    elif engine == "graph":  # keys that are picked out for a layer, in the step before the capture and in the graph
        step += 2 * max(2 * slots(layer.attn.pattern) * layer.attn.n_state for layer in layers) * size
    return cache + conditioning + prefill + tokens + logits + step


def check_memory(plan: LevelPlan, free: int, device: torch.device, dtype: str) -> None:
    """Refuses a level that cannot fit, before it is loaded.

    Raises:
        UserError: says what is needed, what there is, and what would fit.
    """
    if plan.weights + plan.per_song <= free:
        if plan.memory > free:
            largest = (free - plan.weights) // plan.per_song
            raise UserError(
                f"level {plan.level} needs {gigabytes(plan.memory)} for {plan.batch} songs at a time and {device} has "
                f"{gigabytes(free)} free: use --max_batch_size={largest} for this level, or leave it out"
            )
        return
    halves = f"--dtype={half_dtype(device)} halves the matrices, " if dtype == "fp32" else ""
    where = "--device=cpu if the host has more memory, " if device.type != "cpu" else ""
    raise UserError(
        f"level {plan.level} needs {gigabytes(plan.weights + plan.per_song)} for one song and {device} has "
        f"{gigabytes(free)} free: {halves}{where}or take a smaller model"
    )


def gigabytes(n: float) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e7 else f"{n / 1e6:.2f} MB"


# --------------------------------------------------------------------------------------------------------- timing


@dataclass(frozen=True)
class Speed:
    """What was measured: seconds for one new token of a batch, and for one given token of one song."""

    step: float
    given: float


def measure_speed(
    level: Level, vqvae: VQVAE, batch: int, device: torch.device, dtype: str, engine: str = "auto"
) -> Speed:
    """Times a shortened copy of a level's transformer on the device itself, within about two seconds.

    At most some songs and tokens are run; larger batches are taken to cost in proportion. A CPU may be a hundred times
    slower in half types. There it is run in float32, and slowed down as a product of matrices is.
    """
    slow_step = slow_given = 1.0
    songs, batch = batch, min(batch, _SONGS.get(device.type, 32))
    if device.type == "cpu" and dtype in ("fp16", "bf16"):
        slow_step, slow_given, dtype = _slowdown(batch, dtype), _slowdown(8, dtype), "fp32"
    layers, depth = _shortened(level)
    hps = replace(level, hps=type(level.hps)(level.hps, prior_depth=layers))
    model = bare_prior(hps, vqvae).prior.eval().requires_grad_(False)
    kind = torch_dtype(dtype)
    half_matrices(model, matrix_dtype(dtype))
    model.to_empty(device=device)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(0.01)
    if model.share_x_emb_x_out:
        model.x_out.weight = model.x_emb.weight
    given = max(2, min(64 // _SONGS.get(device.type, 1), model.input_dims // 2))
    steps = min(8, model.input_dims // 4)
    y_cond = torch.zeros(batch, 1, model.width, device=device) if model.y_cond else None
    encoder_kv = torch.zeros(batch, model.encoder_dims, model.width, device=device) if model.encoder_dims else None
    with torch.inference_mode():
        prompt = torch.zeros(batch, given, dtype=torch.long, device=device)
        Engine(model, batch, None, y_cond, encoder_kv, kind, engine).prefill(prompt[:, :8])  # first calls are slow
        run = Engine(model, batch, None, y_cond, encoder_kv, kind, engine)
        prefill = _clock(device, partial(run.prefill, prompt))
        tokens, noise = prompt.new_zeros(model.input_dims, batch), torch.zeros(model.input_dims, batch, device=device)
        one = partial(run.draw, tokens, noise, 1, SamplingOptions())
        one()
        taken: list[float] = []
        while len(taken) < max(1, steps) and sum(taken) < _BUDGET:
            taken.append(_clock(device, one))
    share = depth / layers
    step = sorted(taken)[len(taken) // 2] * songs / batch
    del run, one, model
    empty_cache()
    return Speed(step * share * slow_step, prefill / given / batch * share * slow_given)


def _slowdown(rows: int, dtype: str) -> float:
    """How many times longer a product of that many rows and a matrix takes the CPU in that type than in float32."""
    seconds = []
    for kind in (torch.float32, torch_dtype(dtype)):
        x, w = torch.ones(rows, 2048, dtype=kind), torch.ones(2048, 2048, dtype=kind)
        seconds.append(min(_clock(torch.device("cpu"), partial(torch.matmul, x, w)) for _ in range(2)))
    return max(1.0, seconds[1] / seconds[0])


def _shortened(level: Level) -> tuple[int, int]:
    """(layers to build, all layers): enough for 256 MB of matrices in float32, or all."""
    hps = level.hps
    d, state = hps.prior_width, int(hps.m_attn * hps.prior_width)
    per_layer = 4 * d * (4 * state + 2 * int(hps.m_mlp * d))
    return min(hps.prior_depth, -(-256_000_000 // per_layer)), hps.prior_depth


def _clock(device: torch.device, work: Callable[[], object]) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()

    wait()
    begin = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begin


def with_time(plan: LevelPlan, speed: Speed, n_tokens: int) -> LevelPlan:
    """Adds the estimate of time; `n_tokens` lyrics are run again in each window if they come before the music."""
    batches = -(-plan.songs // plan.batch)
    prefill = (plan.prefill_tokens + n_tokens * len(plan.windows)) * plan.songs * speed.given
    return replace(plan, seconds=batches * plan.new_tokens * speed.step + prefill)


# ---------------------------------------------------------------------------------------------------------- words


def describe(settings: Settings, plans: list[LevelPlan], device: torch.device, free: int) -> str:
    """The plan as a table, top level first."""
    sr = settings.model.sr
    songs = plans[0].songs if plans else settings.n_samples
    timed = any(plan.seconds is not None for plan in plans)
    lines = [
        f"{settings.mode}: {songs} song{'s' * (songs != 1)} of {settings.sample_length / sr:.2f} s by "
        f"{settings.model.name}, {settings.dtype} on {device} with {gigabytes(free)} free",
        f"{'level':>5} {'windows':>8} {'tokens':>9} {'prefilled':>9} {'weights':>10} {'a song':>10} {'batch':>6} "
        f"{'memory':>10}{'time' if timed else '':>{10 * timed}}",
    ]
    for plan in plans:
        time_text = ("0 s" if plan.seconds is None else duration(plan.seconds)) if timed else ""
        lines.append(
            f"{plan.level:>5} {len(plan.windows):>8,} {plan.new_tokens:>9,} {plan.prefill_tokens:>9,} "
            f"{gigabytes(plan.weights):>10} {gigabytes(plan.per_song):>10} {plan.batch:>6} "
            f"{gigabytes(plan.memory):>10}{time_text:>{10 * timed}}"
        )
    if timed:
        whole = sum(plan.seconds or 0 for plan in plans)
        lines.append(
            f"time in all: about {duration(whole)}, extrapolated from a few layers and tokens timed on {device} "
            "just now"
        )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """12 s, 3 min, 1 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def level_plans(settings: Settings, known: list[int], songs: int, device: torch.device, timed: bool) -> list[LevelPlan]:
    """Plans all levels of a run, top first, without reading a weight.

    Args:
        settings: with the type of arithmetic.
        known: tokens per level that are there already.
        songs: number of songs of this process.
        timed: also estimate the time, which takes a second or two per level.
    """
    model: Model = settings.model
    vqvae = model.vqvae(settings.sample_length, "meta")
    free = free_bytes(device)
    plans = []
    for level in reversed(settings.sample_levels):
        plan = plan_level(settings, level, known[level], songs, vqvae, free, device)
        found = model.levels[level]
        assert found is not None
        if timed and plan.windows:
            speed = measure_speed(found, vqvae, plan.batch, device, settings.dtype, settings.engine)
            plan = with_time(plan, speed, found.n_tokens if found.hps.single_enc_dec else 0)
        plans.append(plan)
    return plans


def make_plan(
    settings: Settings, songs: range, state: RunState | None, device: torch.device, timed: bool, report: Silent
) -> list[LevelPlan]:
    """Tells the plan, top level first, and returns it.

    Args:
        state: of the run to resume; None begins one.
        timed: estimate the time too, and only tell of levels that do not fit.

    Raises:
        UserError: a level does not fit the memory.
    """
    for line in settings.notices:
        report.message(line)
    known = starting_lengths(settings) if state is None else [z.shape[1] for z in state.zs]
    plans = level_plans(settings, known, len(songs), device, timed)
    free = free_bytes(device)
    report.plan("\n".join([*settings.remarks, describe(settings, plans, device, free)]))
    for plan in plans:
        try:
            check_memory(plan, free, device, settings.dtype)
        except UserError as error:
            if not timed:
                raise
            report.message(f"does not fit: {error}")
    return plans
