"""The two ways to feed lyrics to a prior (paper, section 4.2).

Separate encoder: a small transformer reads the lyrics, and layers of kind 6 attend to what it makes of them.
Merged vocabulary: lyrics and codes are one sequence over one vocabulary, lyrics first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jukebox.prior.autoregressive import ConditionalAutoregressive2D, bits
from jukebox.transformer.config import TransformerConfig
from jukebox.transformer.ops import Conv1D, LayerNorm


@dataclass(frozen=True)
class MergedVocabulary:
    """One sequence [lyrics, codes]: lyric symbols keep their ids, codes come after them.

    Attributes:
        n_vocab: lyric symbols; l_bins: codes; n_lyrics: characters in front; n_ctx: codes after them.
    """

    n_vocab: int
    l_bins: int
    n_lyrics: int
    n_ctx: int

    @property
    def bins(self) -> int:
        return self.n_vocab + self.l_bins

    @property
    def length(self) -> int:
        return self.n_lyrics + self.n_ctx

    def merge(self, lyrics: Tensor, z: Tensor | None) -> Tensor:
        """Lyrics [N, n_lyrics] and codes [N, L] (or None) -> symbols [N, n_lyrics + L]."""
        return lyrics if z is None else torch.cat([lyrics, z + self.n_vocab], dim=1)

    def codes(self, symbols: Tensor) -> Tensor:
        """The codes of a merged sequence. A lyric symbol where music should be becomes code 0."""
        return (symbols[:, self.n_lyrics :] - self.n_vocab).clamp_min(0)

    def conditioning(self, x_cond: Tensor | None, n: int, width: int, device: torch.device) -> Tensor:
        """Conditioning of the merged sequence: zero on the lyrics, x_cond [N, n_ctx, D] on the codes."""
        if x_cond is None:
            return torch.zeros(n, 1, width, device=device)
        zeros = torch.zeros(n, self.n_lyrics, x_cond.shape[-1], dtype=x_cond.dtype, device=device)
        return torch.cat([zeros, x_cond], dim=1)


class LyricEncoder:
    """How a prior uses its separate lyric encoder. Holds no parameters of its own: these are the prior's, by name.

    Args:
        prime_prior: the encoder, a causal model that returns activations; position i has seen the characters before i.
        prime_state_proj, prime_state_ln: to the decoder's width.
        prime_x_out: head that predicts each position's own character.
    """

    def __init__(
        self,
        prime_prior: ConditionalAutoregressive2D,
        prime_state_proj: Conv1D,
        prime_state_ln: LayerNorm,
        prime_x_out: nn.Linear,
    ) -> None:
        self.prime_prior = prime_prior
        self.prime_state_proj = prime_state_proj
        self.prime_state_ln = prime_state_ln
        self.prime_x_out = prime_x_out

    def encode(self, lyrics: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Characters [N, n_lyrics] -> keys for the decoder, encoder_kv [N, n_lyrics, D]; `dtype` as in the decoder."""
        acts = self.prime_prior(lyrics, dtype=dtype)
        return self.prime_state_ln(self.prime_state_proj(acts))

    def loss(self, encoder_kv: Tensor, lyrics: Tensor) -> Tensor:
        """Bits per character."""
        return bits(self.prime_x_out(encoder_kv), lyrics)


def make_encoder_modules(
    n_lyrics: int, n_vocab: int, decoder: TransformerConfig, encoder: TransformerConfig
) -> dict[str, nn.Module]:
    """The separate encoder's modules, by the names under which the prior saves them."""
    prime_x_out = nn.Linear(decoder.width, n_vocab, bias=False)
    nn.init.normal_(prime_x_out.weight, std=0.02 * decoder.init_scale)
    return {
        "prime_prior": ConditionalAutoregressive2D((n_lyrics,), n_vocab, only_encode=True, config=encoder),
        "prime_state_proj": Conv1D(encoder.width, decoder.width, init_scale=encoder.init_scale),
        "prime_state_ln": LayerNorm(decoder.width),
        "prime_x_out": prime_x_out,
    }


READABLE_FROM = 1  # a causal reader of the lyrics knows character i from the position after it


def guided_alignment_loss(weights: Tensor, times: Tensor, samples_per_code: int) -> Tensor:
    """Teaches one head where the lyrics are sung: mean of -log of the attention to the character being sung.

    The same idea as guided attention for speech (arXiv 1710.08969), with known times in place of a diagonal. The target
    of character i is column i + 1, the first position that can know it.

    Args:
        weights: attention of one head [N, L, n_lyrics], music to lyrics.
        times: samples [N, n_lyrics, 2] at which each character starts and ends, from the window's start; equal:
            not known.
        samples_per_code: of the level whose positions they are.

    Returns:
        The loss, in nats per code during which a character with known times is sung; 0 if there is none.
    """
    n_lyrics = weights.shape[-1] - READABLE_FROM
    middle = (torch.arange(weights.shape[1], device=weights.device) + 0.5) * samples_per_code
    start, end = times[:, None, :n_lyrics, 0], times[:, None, :n_lyrics, 1]  # [N, 1, n_lyrics]
    sung = (start <= middle[:, None]) & (middle[:, None] < end)  # [N, L, n_lyrics]
    weight = (weights[..., READABLE_FROM:].float() * sung).sum(-1)
    known = sung.any(-1)
    return -(weight.clamp_min(1e-6).log() * known).sum() / known.sum().clamp_min(1)


def layers_to_record(lyric_layers: Collection[int], wanted: bool | Collection[int]) -> set[int]:
    """All layers that attend to lyrics for True, else those that are named."""
    if wanted is True:
        return set(lyric_layers)
    layers = set(wanted) if wanted else set()
    if not layers <= set(lyric_layers):
        unable = sorted(layers - set(lyric_layers))
        raise ValueError(f"layers {unable} do not attend to lyrics; those that do: {sorted(lyric_layers)}")
    return layers
