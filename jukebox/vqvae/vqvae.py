"""The hierarchical VQ-VAE: audio to codes at several rates, and back.

Each level has its own encoder, codebook and decoder, all working on raw audio. Change here how levels are joined and
what the training loss adds up; the parts are in `encdec.py`, `bottleneck.py` and `losses.py`. Source: Jukebox
(arXiv 2005.00341), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from jukebox.utils.errors import UserError
from jukebox.utils.levels import calculate_strides, samples_per_code
from jukebox.vqvae.bottleneck import Bottleneck
from jukebox.vqvae.config import ConvConfig
from jukebox.vqvae.cpu.tiling import TiledDecoder, TiledEncoder
from jukebox.vqvae.encdec import Encoder
from jukebox.vqvae.loss_kinds import check_loss
from jukebox.vqvae.losses import TERMS, LossSettings, SpectralTarget, reconstruction_loss

__all__ = ["VQVAE", "calculate_strides"]


class VQVAE(nn.Module):
    """Encodes audio [N, T, channels] to codes per level, level 0 the finest, and decodes codes of one level to audio.

    Args:
        input_shape: (T, channels) of one training item; T in samples.
        levels: number of levels.
        downs_t, strides_t: per level, number of strided convolutions and their (even) stride.
        emb_width: width of a code vector.
        l_bins: codes per level.
        mu: decay of the codebooks' running averages.
        commit, spectral, multispectral: weights of the commitment and spectral losses.
        multipliers: per level, factor on width and depth of its encoder and decoder; None is 1 everywhere.
        more: by name, `use_bottleneck` (quantise; False passes the continuous latents through), `revival_threshold` (a
            code whose running count falls below it is replaced by a random encoder output), `quantizer` (one of
            QUANTIZERS), and values of the residual stacks' `ConvConfig`, or `config`, a whole one.

    Attributes:
        downs_t, strides_t, levels, l_bins: as given.
        downsamples: factor of each stage.
        hop_lengths: raw samples per code of each level.
        z_shapes: (codes,) of each level for one training item.
        sample_length: T. x_shape: (T,).
        codes_are_fixed: whether encoders and codebooks stay as they are in training, so that only decoders learn.

    Raises:
        UserError: lists that do not match the levels, odd strides, or a T that no code fits.
        TypeError: names a value that there is not.
    """

    step: int  # steps trained, as its checkpoint says

    def __init__(
        self,
        input_shape: Sequence[int],
        levels: int,
        downs_t: Sequence[int],
        strides_t: Sequence[int],
        emb_width: int,
        l_bins: int,
        mu: float,
        commit: float,
        spectral: float,
        multispectral: float,
        multipliers: Sequence[int] | None = None,
        **more: Any,
    ):
        super().__init__()
        multipliers = [1] * levels if multipliers is None else list(multipliers)
        for name, values in {"downs_t": downs_t, "strides_t": strides_t, "hvqvae_multipliers": multipliers}.items():
            if len(values) != levels:
                raise UserError(f"{name} has {len(values)} entries, levels={levels}: give one per level")
        self.codes_are_fixed = False
        self.levels = levels
        self.multipliers = multipliers
        self.downs_t, self.strides_t = list(downs_t), list(strides_t)
        self.l_bins, self.commit, self.spectral, self.multispectral = l_bins, commit, spectral, multispectral
        self.downsamples = calculate_strides(strides_t, downs_t)
        self.hop_lengths = samples_per_code(strides_t, downs_t)
        self.sample_length = math.prod(input_shape[:-1])
        self.x_shape, x_channels = tuple(input_shape[:-1]), input_shape[-1]
        self.z_shapes = [(self.sample_length // per_code,) for per_code in self.hop_lengths]
        if self.sample_length < self.hop_lengths[-1]:
            raise UserError(
                f"sample_length={self.sample_length} is shorter than one code of the top level: "
                f"use a multiple of {self.hop_lengths[-1]}"
            )

        use_bottleneck, threshold = more.pop("use_bottleneck", True), more.pop("revival_threshold", 1.0)
        quantizer = more.pop("quantizer", "codebook")
        config = ConvConfig.of(**more)
        stages = list(zip(downs_t, strides_t, strict=True))
        shapes = [(x_channels, emb_width, stages[: i + 1], config.scaled(by)) for i, by in enumerate(multipliers)]
        self.encoders = nn.ModuleList(TiledEncoder(*shape) for shape in shapes)
        self.decoders = nn.ModuleList(TiledDecoder(*shape) for shape in shapes)
        self.bottleneck = Bottleneck(l_bins, emb_width, mu, levels, threshold, quantizer if use_bottleneck else None)

    # ------------------------------------------------------------------------------------------ codes

    def encode(self, x: Tensor, start_level: int = 0, end_level: int | None = None, bs_chunks: int = 1) -> list[Tensor]:
        """Audio to codes; runs only the encoders that are asked for, and keeps no gradients.

        Args:
            x: audio [N, T, channels].
            start_level, end_level: levels start_level to end_level - 1; None is all from start_level on.
            bs_chunks: number of pieces the batch is cut into to save memory.

        Returns:
            Codes [N, T // samples per code] int64 of each level.

        Raises:
            UserError: audio shorter than one code.
        """
        levels = range(self.levels)[start_level:end_level]
        if levels and x.shape[1] < self.hop_lengths[levels[-1]]:
            raise UserError(
                f"{x.shape[1]} samples of audio are less than one code of level {levels[-1]}: "
                f"give at least {self.hop_lengths[levels[-1]]}"
            )
        with torch.no_grad():
            pieces = [self._encode(piece, start_level, end_level) for piece in x.chunk(bs_chunks)]
        return [torch.cat(codes) for codes in zip(*pieces, strict=True)]

    def _encode(self, x: Tensor, start_level: int = 0, end_level: int | None = None) -> list[Tensor]:
        """One piece of `encode`; subclasses may have one of their own."""
        encoders = list(self.encoders)[start_level:end_level]
        x = self.preprocess(x)
        return self.bottleneck.encode([cast(Encoder, encoder).latent(x) for encoder in encoders], start_level)

    def decode(
        self, zs: Sequence[Tensor], start_level: int = 0, end_level: int | None = None, bs_chunks: int = 1
    ) -> Tensor:
        """Codes of one level to audio; the codes of higher levels are not needed, and ignored.

        Args:
            zs: codes [N, L] of the levels from `start_level` on; only the first is read.
            start_level: level to decode from.
            end_level: one past the last level that `zs` holds; None if it holds all.
            bs_chunks: number of pieces the batch is cut into to save memory.

        Returns:
            Audio [N, L * samples per code, channels].
        """
        if len(zs) != len(range(self.levels)[start_level:end_level]):
            raise ValueError(f"{len(zs)} levels of codes given for levels {start_level} to {end_level or self.levels}")
        return torch.cat([self._decode([piece], start_level, end_level) for piece in zs[0].chunk(bs_chunks)])

    def _decode(self, zs: Sequence[Tensor], start_level: int = 0, end_level: int | None = None) -> Tensor:
        """One piece of `decode`; subclasses may have one of their own."""
        z = zs[0].to(self.device)
        return self.postprocess(self.decoders[start_level](self.bottleneck.decode([z], start_level)[0]))

    @property
    def device(self) -> torch.device:
        """Where the weights are, and therefore all results."""
        return next(self.parameters()).device

    def preprocess(self, x: Tensor) -> Tensor:
        """Audio [N, T, channels] of any float type and device -> float32 [N, channels, T] where the weights are."""
        return x.transpose(1, 2).to(self.device).float()

    @staticmethod
    def postprocess(x: Tensor) -> Tensor:
        """Audio as decoders give it, [N, channels, T] -> [N, T, channels]."""
        return x.transpose(1, 2)

    # ------------------------------------------------------------------------------------------ training

    def train(self, mode: bool = True) -> VQVAE:
        """As for every module; codebooks that are fixed stay in evaluation."""
        super().train(mode)
        if self.codes_are_fixed:
            self.bottleneck.eval()
        return self

    def forward(
        self, x: Tensor, hps: Mapping[str, Any], loss_fn: str = "l1"
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reconstructs audio at every level and judges the reconstructions.

        Args:
            x: audio [N, T, channels].
            hps: settings of the losses, see `LossSettings.from_hps`.
            loss_fn: `l1`, `l2`, `linf` or `lmix`.

        Returns:
            The reconstruction of level 0 [N, T, channels], the loss, and metrics: sums over levels and, numbered from
            1, each level's `recons_loss` and `{term}_loss` of all terms in `losses.TERMS`; of level 0 only
            `spectral_convergence`, `l1_loss`, `l2_loss`, `linf_loss`; in training the codebooks' mean use.
        """
        settings = LossSettings.from_hps(hps)
        check_loss(loss_fn, hps)
        x_in = self.preprocess(x)
        latents = [cast(Encoder, encoder).latent(x_in) for encoder in self.encoders]
        _, quantized, commit_losses, codebook_metrics = self.bottleneck(latents)

        x_target = x.float()
        target = SpectralTarget(x_target, settings)
        weights = {**settings.weights, "spectral": self.spectral, "multispectral": self.multispectral}
        sums = {name: x_target.new_zeros(()) for name in ("recons_loss", *(f"{term}_loss" for term in TERMS))}
        metrics: dict[str, Tensor] = {}
        for level in reversed(range(self.levels)):
            x_out = self.postprocess(self.decoders[level](quantized[level]))
            of_level = {"recons_loss": reconstruction_loss(loss_fn, x_target, x_out, settings)}
            for term, compute in TERMS.items():
                with torch.set_grad_enabled(torch.is_grad_enabled() and weights[term] != 0):
                    of_level[f"{term}_loss"] = compute(target, x_out)
            for name, value in of_level.items():
                sums[name] = sums[name] + value
                metrics[f"{name}_l{level + 1}"] = value.detach()

        commit_loss = torch.stack(commit_losses).sum()
        loss = sums["recons_loss"] + sum(weights[term] * sums[f"{term}_loss"] for term in TERMS)
        loss = loss + self.commit * commit_loss
        metrics.update({name: value.detach() for name, value in sums.items()})
        with torch.no_grad():
            metrics["spectral_convergence"] = target.spectral_convergence(x_out).mean()
            for kind in ("l2", "l1", "linf"):
                metrics[f"{kind}_loss"] = reconstruction_loss(kind, x_target, x_out, settings)
        metrics["commit_loss"] = commit_loss.detach()
        metrics.update(codebook_metrics)
        return x_out, loss, metrics

    # ------------------------------------------------------------------------------------------ resuming

    def state_extra(self) -> list[dict[str, Any]]:
        """Codebook averages per level, which the state dict does not hold: save them beside it to resume exactly."""
        return [extra for block in self.bottleneck.blocks if (extra := block.state_extra())]

    def load_extra(self, extra: Sequence[Mapping[str, Any]]) -> None:
        """Takes up what `state_extra` gave; call it after `load_state_dict`.

        Raises:
            UserError: other levels or shapes than this model has.
        """
        blocks = [block for block in self.bottleneck.blocks if block.state_extra()]
        if len(extra) != len(blocks):
            raise UserError(f"the checkpoint holds {len(extra)} codebooks, this model has {len(blocks)}: check levels")
        for block, state in zip(blocks, extra, strict=True):
            block.load_extra(state)
