"""What a training run needs, before anything is loaded or allocated: parameters, and memory per process.

Weights, gradients, optimizer state and average are counted exactly, on modules without memory. Activations are those
that the backward pass keeps, counted while fake tensors run through the real modules. If layers are recomputed, one
recomputed layer is added. What an allocator loses and what kernels need for a moment is not counted. Change here what
is planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jukebox.hparams import Hyperparams, pick
from jukebox.make_models import build_prior, make_vqvae
from jukebox.prior.autoregressive import ConditionalAutoregressive2D
from jukebox.prior.prior import SimplePrior
from jukebox.training.finetune import freeze_all_but
from jukebox.training.sharding import layers_to_shard
from jukebox.training.step import TrainedModel
from jukebox.transformer.patterns import CROSS_KIND
from jukebox.utils.launch import read_launch
from jukebox.utils.plural import counted
from jukebox.utils.precision import read_dtype
from jukebox.vqvae.cpu import tiling
from jukebox.vqvae.vqvae import VQVAE

GIB = 2**30
USUAL_GB = 80.0  # of one GPU, if none is there to ask
USUAL_GPUS = 8  # of one host, likewise
SPARE = 0.9  # share of a GPU's memory that may be planned for


_LAYERS = ("c_res", "prime_c_res", "cond_c_res")  # of transformer, lyric encoder and conditioner
_IN_LAYERS = ("c_attn", "c_mlp", "prime_c_attn", "prime_c_mlp")
RECOMPUTE = {"all": dict.fromkeys(_LAYERS, 1), "none": dict.fromkeys((*_LAYERS, *_IN_LAYERS), 0)}


@dataclass(frozen=True)
class Needs:
    """Bytes of one process; `host` is in host memory."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    gathered: int  # whole layers that exist for a moment if weights are sharded
    activations: int
    vqvae: int
    host: int

    @property
    def total(self) -> int:
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.average
            + self.gathered
            + self.activations
            + self.vqvae
        )


@dataclass(frozen=True)
class PlanOptions:
    """The hyper-parameters of the same names."""

    prior: bool
    level: int
    bs: int
    sample_length: int
    prior_width: int
    c_res: int
    fp16: bool
    fp16_opt: bool
    bf16: bool | None
    ema: bool
    cpu_ema: bool
    fsdp: bool
    plan_ranks: str
    plan_gb: float

    @property
    def precision(self) -> str:
        """What a GPU run would compute in, see `resolve`."""
        bf16 = self.prior and not self.fp16 if self.bf16 is None else self.bf16
        return "fp16" if self.fp16 else "bf16" if bf16 else "fp32"


def plan(hps: Hyperparams) -> list[str]:
    """Lines for a person: the model, and what it needs on some numbers of processes.

    Args:
        hps: checked by `check_training`; `plan_ranks` and `plan_gb` say what to plan for.
    """
    gpu = pick(PlanOptions, hps).plan_gb or _gpu_gb()
    recompute, choice = choose_recompute(hps, gpu * GIB, read_launch().size)
    hps = Hyperparams(hps, **recompute)
    options = pick(PlanOptions, hps)
    model, vqvae = build_without_memory(hps)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    part = "" if trained == everything else f", {trained:,} of them trained"
    what = f"prior of level {options.level}" if options.prior else "VQ-VAE"
    batch = f"{counted(options.bs, 'item')} a process"
    lines = [f"{what}: {everything:,} parameters{part}; computes in {options.precision}, {batch}"]
    activations = count_activations(model, hps)
    lines += [choice] if choice else []
    per_host = read_launch().local_size or torch.cuda.device_count() or USUAL_GPUS
    ranks = [int(n) for n in options.plan_ranks.split(",") if n.strip()] or sorted({read_launch().size, 8, 64})
    lines.append("GiB per process    weights  gradients  optimizer  average  gathered  activations  VQ-VAE    total")
    fits: dict[tuple[int, bool], bool] = {}
    for n in ranks:
        for sharded in (False, True) if n > 1 and (options.prior or options.fsdp) else (False,):
            needs = count(model, vqvae, options, n if sharded else 1, activations)
            fits[n, sharded] = needs.total <= SPARE * gpu * GIB
            numbers = (needs.weights, needs.gradients, needs.optimizer, needs.average, needs.gathered)
            row = [f"{x / GIB:.2f}" for x in (*numbers, needs.activations, needs.vqvae, needs.total)]
            who = f"{n:4} {counted(n, 'rank').split()[1]:5} {'--fsdp' if sharded else '      '}"
            widths = (8, 10, 10, 8, 9, 12, 7, 8)
            lines.append(" ".join([who, *(f"{x:>{width}}" for x, width in zip(row, widths, strict=True))]))
            if needs.host:
                together = min(n, per_host)
                host = f"     and {needs.host / GIB:.2f} GiB of host memory for the average"
                more = f", {together * needs.host / GIB:.2f} on a host of {together} processes"
                lines.append(host + (more if together > 1 else ""))
    lines += [_verdict(n, fits, gpu, options) for n in ranks]
    return lines


def choose_recompute(hps: Hyperparams, memory: float, ranks: int) -> tuple[dict[str, int], str]:
    """What --recompute means where `memory` bytes are at hand for each of some processes.

    Returns:
        The hyper-parameters that it sets, and for "auto" a line that says what was chosen; nothing if it is empty.
    """
    if not hps.recompute:
        return {}, ""
    if hps.recompute != "auto":
        return RECOMPUTE[hps.recompute], ""
    kept = Hyperparams(hps, **RECOMPUTE["none"])
    model, vqvae = build_without_memory(kept)
    shards = ranks if hps.fsdp else 1
    needs = count(model, vqvae, pick(PlanOptions, kept), shards, count_activations(model, kept))
    chosen = "none" if needs.total <= SPARE * memory else "all"
    does = "layers are recomputed" if chosen == "all" else "no layer is recomputed"
    return RECOMPUTE[chosen], (
        f"recompute=auto: {does}, since with all activations kept a process needs {needs.total / GIB:.2f} GiB, "
        f"and {memory / GIB:.2f} are free"
    )


def _verdict(n: int, fits: dict[tuple[int, bool], bool], gpu: float, options: PlanOptions) -> str:
    where = f"{counted(n, 'rank')} of {gpu:g} GiB"
    if fits[n, False]:
        return f"{where}: fits as it is, --fsdp is not needed"
    if fits.get((n, True)):
        return f"{where}: needs --fsdp"
    advice = [] if options.bs == 1 else ["a smaller --bs"]
    if options.prior:  # a VQ-VAE's weights are small beside its activations
        advice += [] if options.c_res else ["--recompute=all"]
        advice += ["more ranks with --fsdp"] + (
            [] if options.cpu_ema or not options.ema else ["--cpu_ema --ema_fused=False"]
        )
    return f"{where}: does not fit" + (f"; use {', '.join(advice)}" if advice else "")


def _gpu_gb() -> float:
    return torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else USUAL_GB


def _bare(hps: Hyperparams) -> Hyperparams:
    """Hyper-parameters of a model that is only counted: no file is read for it, label tables neither."""
    return Hyperparams(hps, restore_vqvae="", restore_prior="", labels_dir="", train=True)


def build_without_memory(hps: Hyperparams) -> tuple[TrainedModel, VQVAE | None]:
    """The model in training and its VQ-VAE (None if that is the model), on the meta device."""
    settings = _bare(hps)
    with torch.device("meta"):
        vqvae = make_vqvae(settings, "meta")
        if not hps.prior:
            return vqvae, None
        prior = build_prior(settings, vqvae)
    freeze_all_but(prior, hps.finetune_layers)
    return prior, vqvae


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def count(model: nn.Module, vqvae: nn.Module | None, options: PlanOptions, shards: int, activations: int) -> Needs:
    """Bytes of one of `shards` processes that hold one copy of the weights together (1: each holds all)."""
    weights = list(model.parameters())
    trained = [p for p in weights if p.requires_grad]
    elements = sum(p.numel() for p in trained)
    halves = sum(p.numel() for p in trained if p.dtype == torch.half) if options.fp16_opt else 0
    average = 4 * elements // shards if options.ema else 0
    gathered = 0
    if shards > 1:
        layers = layers_to_shard(model)
        mixed = any(p.dtype == torch.half for p in weights)  # then layers gather only their matrices
        in_layer = [[p for p in layer.parameters() if not mixed or p.dtype == torch.half] for layer in layers]
        inside = {id(p) for parameters in in_layer for p in parameters}
        outside = _bytes([p for p in weights if id(p) not in inside])
        largest = max((_bytes(parameters) for parameters in in_layer), default=0)
        gathered = outside + 3 * largest  # weights of two layers and gradients of one, and all that is in no layer
    return Needs(
        weights=_bytes(weights) // shards,
        gradients=_bytes(trained) // shards,
        optimizer=(2 * 4 * (elements - halves) + 2 * 2 * halves) // shards,
        average=0 if options.cpu_ema else average,
        gathered=gathered,
        activations=activations,
        vqvae=_bytes([*vqvae.parameters(), *vqvae.buffers()]) if vqvae is not None else 0,
        host=average if options.cpu_ema else 0,
    )


# ------------------------------------------------------------------------------------------- activations


@contextmanager
def saved_bytes(module: nn.Module) -> Iterator[Callable[[], int]]:
    """Counts what autograd keeps for a backward pass in the block, a module's own weights left out."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    seen: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage  # held, so that its number is not given to another one
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for storage in seen.values())


def count_activations(model: TrainedModel, hps: Hyperparams) -> int:
    """Bytes that the backward pass of one batch keeps, without the weights."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    options = pick(PlanOptions, hps)
    if isinstance(model, VQVAE):
        return _of_vqvae(model, options.bs, options.sample_length)
    settings = _bare(hps)
    with torch.device("meta"):
        vqvae = make_vqvae(settings, "meta")
    with (
        FakeTensorMode(),
        tiling.disabled(),
        torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"),
    ):
        prior = build_prior(settings, vqvae)
        freeze_all_but(prior, hps.finetune_layers)
        return _of_prior(prior, options)


def _of_prior(prior: SimplePrior, options: PlanOptions) -> int:
    n, width, dtype = options.bs, options.prior_width, read_dtype(options.fp16)
    parts: list[int] = []
    x_cond = y_cond = kv = None
    if prior.cond_downsample is not None:
        z_above = torch.zeros(n, prior.n_ctx // prior.cond_downsample, dtype=torch.long)
        with saved_bytes(prior.conditioner_blocks[0]) as kept:
            x_cond = prior.conditioner_blocks[0](z_above)
            parts.append(kept())
    elif prior.y_cond:
        x_cond = torch.empty(n, prior.n_ctx, width, requires_grad=True)
    if prior.y_cond:
        y_cond = torch.empty(n, 1, width, requires_grad=True)
    if prior.lyric_encoder is not None:
        with saved_bytes(prior.prime_prior) as kept:  # type: ignore[arg-type]
            kv = prior.get_encoder_kv(torch.zeros(n, prior.n_tokens, dtype=torch.long), dtype=dtype)
            parts.append(kept())
    length = prior.n_ctx
    if prior.merged is not None:
        length = prior.merged.length
        x_cond = torch.empty(n, length, width, requires_grad=True)
    with saved_bytes(prior.prior) as kept:
        prior.prior(torch.zeros(n, length, dtype=torch.long), x_cond, y_cond, kv, dtype=dtype)
        parts.append(kept())
    if options.c_res:
        parts.append(_one_layer(prior.prior, n, length, width, kv, dtype))
    return sum(parts)


def _one_layer(
    car: ConditionalAutoregressive2D, n: int, length: int, width: int, kv: Tensor | None, dtype: torch.dtype
) -> int:
    """The largest layer's, which exist while it is recomputed."""
    sizes = {0}
    kinds = {layer.attn_func: layer for layer in car.transformer.layers}
    for layer in kinds.values():
        x = torch.empty(n, length, width, dtype=dtype, requires_grad=True)
        with saved_bytes(layer) as kept:
            layer(x, kv if layer.attn_func == CROSS_KIND else None)
            sizes.add(kept())
    return max(sizes)


def _of_vqvae(vqvae: VQVAE, bs: int, sample_length: int) -> int:
    x = torch.empty(bs, 1, sample_length, device="meta")
    total = 0
    for encoder, decoder in zip(vqvae.encoders, vqvae.decoders, strict=True):
        with saved_bytes(encoder) as kept:
            latents = encoder.latent(x)  # type: ignore[operator]
            total += kept()
        with saved_bytes(decoder) as kept:
            decoder(latents)
            total += kept()
    return total
