"""Sampling from an autoregressive model: take a prompt in, then one token after another.

Owns the caches and the random numbers. `prefill` runs given tokens in as few passes as memory allows. `draw` makes new
ones. On a CPU the native library does, if there is one (`jukebox/native`), and on CUDA steps of fixed shapes in a graph
(`fixed_steps.py`). Else PyTorch does through `TokenStep`, the twin of both.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from jukebox.native import build
from jukebox.native.steps import TYPES, NativeSteps
from jukebox.prior.autoregressive import ConditionalAutoregressive2D
from jukebox.prior.fixed_steps import FixedSteps, why_not_fused
from jukebox.prior.logits import SamplingOptions, draw
from jukebox.transformer.token_step import TokenStep
from jukebox.utils.memory import free_bytes, is_out_of_memory
from jukebox.utils.precision import logits_error

Progress = Callable[[int], None]

SMALL = 8_000_000  # parameters
ENGINES = ("auto", "native", "fused", "graph", "eager")
SMALLEST_CHUNK = 512  # positions of a pass over given tokens that is not asked to be shorter
# What such a pass takes per position and number of the width: input, norm, q, k, v, MLP and their padded copies, in
# float32 at worst.
BYTES_PER_NUMBER = 4 * 16
_NEXT = {"fused": "graph", "graph": "eager"}  # which engine takes over from one that fails
_failed: dict[str, str] = {}  # engines that failed in this process, and those that took over
_BOTH = 2  # first tokens that such an engine and its twin both make
# How far their logits may differ, relative to the largest.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
_LOOK = 64  # positions between two looks at what a GPU has computed
_PAUSE = 0.1  # seconds of native work between two looks at the keyboard


def pick_engine(wanted: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Which engine draws tokens.

    Args:
        wanted: a name of `ENGINES`. "native" is for a CPU. "fused" (kernels of apex) and "graph" (PyTorch) have fixed
            shapes and are captured as a graph on CUDA. "eager" is PyTorch, and "auto" the fastest that works.
        device, dtype: where and in which type.

    Returns:
        (the engine, why it is not a faster one: a few words, or nothing if it is or if it was wanted).

    Raises:
        ValueError: "native" or "fused" is wanted and cannot run, or an unknown name.
    """
    if wanted not in ENGINES:
        raise ValueError(f"engine={wanted}: choose one of {', '.join(ENGINES)}")
    fixed = wanted == "fused" or (wanted == "auto" and device.type == "cuda")
    if wanted in ("graph", "eager"):
        best, why = wanted, ""
    elif fixed:
        best, why = "fused", why_not_fused(device)
    else:
        best, why = "native", ""
        if device.type != "cpu":
            why = f"it is for the processor, not for {device.type}"
        elif dtype not in TYPES:
            why = f"it has no {dtype}".replace("torch.", "")
        else:
            why = build.why_not()
    if why and wanted != "auto":
        raise ValueError(f"engine={wanted}: {why}")
    return engine_used(_NEXT.get(best, "eager") if why else best), why


def forget_failures() -> None:
    """Lets every engine be tried again in this process, as a script does that compares them."""
    _failed.clear()


def engine_used(engine: str) -> str:
    """The engine itself, or the one that took over from it after it failed in this process."""
    while engine in _failed:
        engine = _failed[engine]
    return engine


class Engine:
    """One batch of sequences that grow together.

    Args:
        model: in eval mode.
        n: batch size N.
        x_cond: [N, L, D], [N, 1, D] or None; y_cond: [N, 1, D] or None; encoder_kv: [N, encoder length, D] or None.
        dtype: type of the transformer's activations and caches.
        engine: who draws, see `pick_engine`.

    Attributes:
        position: the position that comes next.
        engine: the one that draws; if it fails another one takes over.
    """

    def __init__(
        self,
        model: ConditionalAutoregressive2D,
        n: int,
        x_cond: Tensor | None = None,
        y_cond: Tensor | None = None,
        encoder_kv: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        engine: str = "auto",
    ) -> None:
        self.model, self.n = model, n
        self.x_cond, self.y_cond, self.encoder_kv = x_cond, y_cond, encoder_kv
        self.dtype = dtype
        self.device = model.x_emb.weight.device
        self.caches = model.transformer.new_caches(n, dtype, self.device)
        self.position = 0
        self.engine = pick_engine(engine, self.device, dtype)[0]
        self._token_step: TokenStep | None = None
        self._native: NativeSteps | None = None
        self._fixed: FixedSteps | None = None
        self._made_both_ways = 0
        self._pos_emb = model.pos_emb()
        self._finite = torch.ones(model.input_dims, dtype=torch.bool, device=self.device)  # logits, by position
        self._checked = 0

    def prefill(self, tokens: Tensor, chunk_size: int | None = None, get_logits: bool = False) -> Tensor | None:
        """Runs given tokens [N, L] for positions 0 .. L - 1, so that position L comes next.

        Args:
            chunk_size: most positions in one pass; None takes as many as memory allows.

        Returns:
            Logits [N, L, K] of these positions if asked for.
        """
        model = self.model
        length = tokens.shape[1]
        chunk = chunk_size or self._largest_chunk(length)
        first = model.first(self.n, self.y_cond)
        logits = []
        for start in range(0, length, chunk):
            end = min(start + chunk, length)
            held = model.x_emb(tokens[:, max(0, start - 1) : end - 1])
            shifted = torch.cat([first, held], dim=1) if start == 0 else held
            h = model.embed(shifted, start, self.x_cond)
            h = model.transformer(h, self.encoder_kv if start == 0 else None, self.caches, dtype=self.dtype)
            if get_logits:
                cond = None if self.x_cond is None else model.cond_slice(self.x_cond, start, end)
                logits.append(model.x_out(model.head_input(h, cond)))
        self.position = length
        return torch.cat(logits, dim=1) if get_logits and logits else None

    def _largest_chunk(self, length: int) -> int:
        """Positions that one pass can take in a quarter of the free memory; whole blocks if it must be cut."""
        if length <= SMALLEST_CHUNK:
            return max(1, length)
        chunk = free_bytes(self.device) // 4 // (self.n * self.model.width * BYTES_PER_NUMBER)
        return int(min(length, max(SMALLEST_CHUNK, chunk // SMALLEST_CHUNK * SMALLEST_CHUNK)))

    def step(self, token: Tensor | None) -> Tensor:
        """Runs the next position, which holds the token before it [N] (None at position 0). Returns logits [N, K]."""
        model, i = self.model, self.position
        if self._token_step is None:
            if i == 0:
                self._fill_lyric_caches()
            self._token_step = TokenStep(model.transformer, self.caches, self.dtype)
        held = model.first(self.n, self.y_cond)[:, 0] if token is None else torch.embedding(model.x_emb.weight, token)
        x = held + self._pos_emb[i]
        cond = self.x_cond
        if cond is not None:
            cond = cond[:, 0] if cond.shape[1] == 1 else cond[:, i]
            x = x + cond
        h = self._token_step(x)
        self.position += 1
        if cond is not None and model.add_cond_after_transformer:
            h = h + cond
        return h @ model.x_out.weight.t()

    def draw(
        self, tokens: Tensor, noise: Tensor, count: int, options: SamplingOptions, logits: Tensor | None = None
    ) -> None:
        """Draws the tokens of the next `count` positions.

        Args:
            tokens: LongTensor [n_tokens, N], a row per position: those before the next position are there.
            noise: uniform numbers in [0, 1), the same shape; row i decides the tokens of position i.
            logits: [count, N, K] to be filled, or None.

        Raises:
            UserError: logits are NaN or infinite.
        """
        start = self.position
        if self.engine == "native":
            steps = self._native or self._make_native()
            steps.draw(tokens, noise, start, count, options.temp, options.top_k, options.top_p, logits)
            self.position += count
            return
        for i in range(start, start + count):
            one = self._eager_step if self.engine == "eager" else self._fixed_step
            step_logits = one(i, tokens, noise, options)
            if logits is not None:
                logits[i - start] = step_logits
            if self.device.type == "cpu" or not (i + 1) % _LOOK:
                self.check()

    def _eager_step(self, i: int, tokens: Tensor, noise: Tensor, options: SamplingOptions) -> Tensor:
        logits = self.step(tokens[i - 1] if i else None)
        tokens[i] = draw(logits, options, noise[i])
        self._finite[i] = logits.isfinite().all()
        return logits

    def _fixed_step(self, i: int, tokens: Tensor, noise: Tensor, options: SamplingOptions) -> Tensor:
        """Draws the tokens of position i; the first ones also eagerly, and if they differ another engine takes over."""
        if self._fixed is not None and self._made_both_ways >= _BOTH:
            self._saw(i + 1)
            return self._fixed.draw(i, tokens, noise, options)
        expected = self.step(tokens[i - 1] if i else None)
        step, model = self._token_step, self.model
        assert step is not None
        try:
            if self._fixed is None:
                first = model.first(self.n, self.y_cond)[:, 0]
                fused = self.engine == "fused"
                self._fixed = FixedSteps(model, self.caches, step, first, self.x_cond, self._finite, fused)
            logits = self._fixed.draw(i, tokens, noise, options)
            off = float((logits - expected).abs().max() / expected.abs().max().clamp_min(1.0))
            # Logits that are not finite are found by `check`; if only these are, they are wrong.
            wrong = off > TOLERANCE[self.dtype] or (off != off and bool(expected.isfinite().all()))
            failure = f"its logits differ by {off:.2g} of their scale" if wrong else ""
        except Exception as error:
            if is_out_of_memory(error):
                raise
            failure = f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0]
        if failure:
            self._take_over(failure)
            self._saw(i)  # its keys are written again
            one = self._eager_step if self.engine == "eager" else self._fixed_step
            return one(i, tokens, noise, options)
        self._made_both_ways += 1
        if self._made_both_ways == _BOTH and self.engine == "fused":
            self._token_step = None
        return logits

    def _saw(self, position: int) -> None:
        """Sets the position that comes next, for all caches too."""
        self.position = position
        for cache in self.caches:
            cache.seen = position

    def _take_over(self, failure: str) -> None:
        """Another engine takes over from the one that failed, and one line says so."""
        failed, self._fixed, self._made_both_ways = self.engine, None, 0
        self.engine = _failed[failed] = _NEXT[failed]
        on_card = self.device.type == "cuda" and torch.cuda.is_available()
        card = torch.cuda.get_device_name(self.device) if on_card else str(self.device)
        warnings.warn(
            f"engine={failed} does not work on {card} with torch {torch.__version__}, so engine={self.engine} draws: "
            f"{failure}",
            RuntimeWarning,
            stacklevel=2,
        )

    def check(self) -> None:
        """Looks whether all logits so far were finite; waits for the device.

        Raises:
            UserError: they were not.
        """
        bad = (~self._finite[self._checked : self.position]).nonzero()
        if len(bad):
            raise logits_error(self._checked + int(bad[0]))
        self._checked = self.position

    def _make_native(self) -> NativeSteps:
        model = self.model
        if self.position == 0:
            self._fill_lyric_caches()
        self._native = NativeSteps(
            model.transformer,
            self.caches,
            self.dtype,
            model.x_out.weight,
            model.x_emb.weight,
            self._pos_emb,
            model.first(self.n, self.y_cond)[:, 0],
            self.x_cond,
            model.add_cond_after_transformer,
        )
        return self._native

    def _fill_lyric_caches(self) -> None:
        if self.encoder_kv is None:
            return
        for layer, cache in zip(self.model.transformer.layers, self.caches, strict=True):
            if layer.attn.is_cross:
                cache.fill(*layer.attn.encoder_keys(self.encoder_kv.to(self.dtype)))


@contextlib.contextmanager
def threads_for(model: torch.nn.Module) -> Iterator[None]:
    """One thread for the steps of a small model on the processor, as many as there are for others.

    A step of a small model is hundreds of calls of microseconds, and two threads gain 4 % on it. If other work holds a
    core, they wait for each other at every call and take seven times as long.
    """
    threads = torch.get_num_threads()
    first = next(model.parameters())
    small = first.device.type == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if small:
            torch.set_num_threads(threads)


@torch.inference_mode()
def generate(
    model: ConditionalAutoregressive2D,
    n: int,
    n_tokens: int,
    prompt: Tensor | None = None,
    x_cond: Tensor | None = None,
    y_cond: Tensor | None = None,
    encoder_kv: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    options: SamplingOptions | None = None,
    chunk_size: int | None = None,
    noise: Tensor | None = None,
    get_logits: bool = False,
    progress: Progress | None = None,
    engine: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Draws tokens until the sequences are n_tokens long.

    Args:
        model: in eval mode.
        n: batch size N; n_tokens: length of the result, at most the context.
        prompt: the first tokens [N, M], fewer than n_tokens; None or empty for none.
        chunk_size: most prompt positions in one pass; None as many as memory allows.
        noise: uniform numbers in [0, 1) [N, n_tokens]; column i decides token i. None draws them from torch's
            generator.
        get_logits: also return the logits of all positions.
        progress: called now and then with the number of tokens that were drawn since, summed over the sequences.
        engine: who draws, see `pick_engine`.

    Returns:
        (tokens [N, n_tokens], logits [N, n_tokens, K] or None).

    Raises:
        ValueError: lengths that do not fit.
        UserError: logits are NaN or infinite.
    """
    n_prompt = 0 if prompt is None else prompt.shape[1]
    if not n_prompt < n_tokens <= model.input_dims:
        raise ValueError(f"{n_prompt} given and {n_tokens} wanted tokens do not fit a context of {model.input_dims}")
    options = options or SamplingOptions()
    run = Engine(model, n, x_cond, y_cond, encoder_kv, dtype, engine)
    device = run.device
    if noise is None:
        noise = torch.rand(n, n_tokens, device=device)
    noise = noise.to(device).float().t().contiguous()  # a row per position
    tokens = torch.empty(n_tokens, n, dtype=torch.long, device=device)  # a row per position: written without copies
    logits: list[Tensor] = []
    if prompt is not None and n_prompt:
        given = run.prefill(prompt, chunk_size, get_logits)
        tokens[:n_prompt] = prompt.t()
        if given is not None:
            logits.append(given)
    count = 1
    with threads_for(model):
        while run.position < n_tokens:
            count = min(count, n_tokens - run.position)
            drawn = torch.empty(count, n, model.bins, device=device) if get_logits else None
            began = time.perf_counter()
            run.draw(tokens, noise, count, options, drawn)
            if drawn is not None:
                logits.append(drawn.transpose(0, 1))
            if progress:
                progress(n * count)
            if run.engine == "native":
                count = max(1, min(1024, int(count * _PAUSE / max(time.perf_counter() - began, 1e-6))))
    run.check()
    return tokens.t().contiguous(), torch.cat(logits, dim=1) if get_logits else None
