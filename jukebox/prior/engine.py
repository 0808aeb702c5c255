"""Sampling from an autoregressive model: take a prompt in, then one token after another.

Owns the caches and the random numbers. `prefill` runs given tokens in as few passes as memory allows. `draw` makes new
ones: by the native library if there is one (`jukebox/native`), else by PyTorch through `TokenStep`, its twin.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from jukebox.native import build
from jukebox.native.steps import TYPES, NativeSteps
from jukebox.prior.autoregressive import ConditionalAutoregressive2D
from jukebox.prior.logits import SamplingOptions, draw
from jukebox.transformer.token_step import TokenStep
from jukebox.utils.memory import free_bytes
from jukebox.utils.precision import logits_error

Progress = Callable[[int], None]

SMALL = 8_000_000  # parameters
ENGINES = ("auto", "native", "eager")
_LOOK = 64  # positions between two looks at what a GPU has computed
_PAUSE = 0.1  # seconds of native work between two looks at the keyboard


def pick_engine(wanted: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Which engine draws tokens.

    Args:
        wanted: "native", "eager", or "auto", the fastest that works.
        device, dtype: where and in which type.

    Returns:
        ("native" or "eager", why it is not native: a few words, or nothing if it is or if "eager" was wanted).

    Raises:
        ValueError: "native" is wanted and cannot be built, or an unknown name.
    """
    if wanted not in ENGINES:
        raise ValueError(f"engine={wanted}: choose one of {', '.join(ENGINES)}")
    if wanted == "eager":
        return "eager", ""
    if device.type != "cpu":
        why = f"it is for the processor, not for {device.type}"
    elif dtype not in TYPES:
        why = f"it has no {dtype}".replace("torch.", "")
    else:
        why = build.why_not()
    if why and wanted == "native":
        raise ValueError(f"engine=native: {why}")
    return ("eager" if why else "native"), why


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
        engine: "native" or "eager".
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
        if length <= 512:
            return max(1, length)
        # Per position: input, norm, q, k, v, MLP and their padded copies, in float32 at worst.
        per_position = self.n * self.model.width * 4 * 16
        chunk = free_bytes(self.device) // 4 // per_position
        return int(min(length, max(512, chunk // 512 * 512)))

    def step(self, token: Tensor | None) -> Tensor:
        """Runs the next position, which holds the token before it [N] (None at position 0). Returns logits [N, K]."""
        model, i = self.model, self.position
        if self._token_step is None:
            if i == 0 and self.encoder_kv is not None:
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
            step_logits = self.step(tokens[i - 1] if i else None)
            tokens[i] = draw(step_logits, options, noise[i])
            if logits is not None:
                logits[i - start] = step_logits
            self._finite[i] = step_logits.isfinite().all()
            if self.device.type == "cpu" or not (i + 1) % _LOOK:
                self.check()

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
        if self.position == 0 and self.encoder_kv is not None:
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
        assert self.encoder_kv is not None
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
