"""What a model in training sounds like: input, reconstructions and samples for the log, and where it reads lyrics."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from jukebox.page.pictures import alignment_picture
from jukebox.prior.prior import SimplePrior
from jukebox.training.ema import averaged_weights
from jukebox.training.logger import RunLogger
from jukebox.training.step import Batch, Training
from jukebox.utils.audio_utils import audio_postprocess, audio_preprocess
from jukebox.utils.precision import read_dtype
from jukebox.utils.torch_utils import seed_everything
from jukebox.vqvae.vqvae import VQVAE


@dataclass(frozen=True)
class PreviewOptions:
    """The hyper-parameters of the same names."""

    bs_sample: int
    n_segment: int


@torch.no_grad()
def log_previews(training: Training, batch: Batch, options: PreviewOptions, logger: RunLogger) -> None:
    """Writes audio previews of a batch, made with the averaged weights, and their spectrograms.

    A VQ-VAE gives its reconstruction from every level. A prior gives the reconstruction from its codes and as many new
    windows as `bs_sample`, with the labels and upper codes of the batch. What its alignment head reads is a picture.
    Only rank 0 has something to do, unless the weights are sharded: then all gather them and do the same.
    """
    if not logger.first and training.shards is None:
        return
    seed_everything(training.options.seed, "preview", training.step)
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    x, *labels = [part[: options.bs_sample].to(training.device) for part in parts]
    sounds: dict[str, torch.Tensor] = {}
    if x.is_floating_point():  # not codes that were made ahead of time
        x = sounds["input"] = audio_preprocess(x, replace(training.options, aug_blend=False))
    y = labels[0] if labels else None
    training.model.eval()
    with averaged_weights(training.average), training.shards.gathered() if training.shards else nullcontext():
        sounds.update(
            _of_vqvae(training.model, x, options.n_segment)
            if isinstance(training.model, VQVAE)
            else _of_prior(training.model, x, y, training.options.fp16, options.n_segment)
        )
        pictures = _alignments(training.model, x, y, training.options.fp16)
    training.model.train()
    for i, picture in enumerate(pictures[: logger.options.max_log]):
        logger.image(f"alignment/{i}", picture, training.step)
    for name, sound in sounds.items():
        logger.audio(name, audio_postprocess(sound, options), training.step)


def _of_vqvae(model: VQVAE, x: torch.Tensor, parts: int) -> dict[str, torch.Tensor]:
    zs = model.encode(x)
    return {f"level_{level}": _decode(model, zs[level:], parts, start_level=level) for level in range(model.levels)}


def _of_prior(
    model: SimplePrior, x: torch.Tensor, y: torch.Tensor | None, fp16: bool, parts: int
) -> dict[str, torch.Tensor]:
    z, *above = model.encode(x)
    z_conds = above[:1] if model.level < model.levels - 1 else None
    sampled = model.sample(len(x), z_conds=z_conds, y=y, dtype=read_dtype(fp16))
    return {
        "codes": _decode(model, [z, *above], parts),
        "sample": _decode(model, [sampled, *above], parts),
    }


def _alignments(model: VQVAE | SimplePrior, x: torch.Tensor, y: torch.Tensor | None, fp16: bool) -> list[bytes]:
    """For each item a PNG of what the alignment head reads of the lyrics: time to the right, lyrics downwards."""
    if isinstance(model, VQVAE) or not model.n_tokens or model.alignment_layer is None or model.alignment_head is None:
        return []
    z, *above = model.encode(x)
    z_conds = above[:1] if model.level < model.levels - 1 else []
    recorded = model.z_forward(z, z_conds, y, dtype=read_dtype(fp16), get_attn_weights={model.alignment_layer})
    assert isinstance(recorded, list)
    return [alignment_picture(weights) for weights in recorded[0][:, model.alignment_head].float().cpu()]


def _decode(model: VQVAE | SimplePrior, zs: list[torch.Tensor], parts: int, **where: int) -> torch.Tensor:
    """Audio of codes, decoded in `n_segment` parts of equal length, which take so much less memory."""
    pieces = zip(*(z.chunk(parts, dim=1) for z in zs), strict=True)
    return torch.cat([model.decode(list(piece), **where) for piece in pieces], dim=1)
