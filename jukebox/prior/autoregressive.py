"""The autoregressive model of one level: embed -> transformer -> logits, and the loss. It knows no loops.

Sampling, caches and random numbers are in `engine.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jukebox.transformer.config import TransformerConfig
from jukebox.transformer.transformer import Transformer
from jukebox.utils.precision import read_dtype


class Output(NamedTuple):
    """What one pass over a whole sequence gives.

    Attributes:
        loss: mean cross entropy in bits per token, or None if nothing is predicted.
        prime_loss, gen_loss: the same over the lyrics and over the music of a merged sequence.
        logits: [N, L, K] or None.
        acts: transformer output [N, L, D].
        weights: recorded attention weights, in order of layers.
    """

    loss: Tensor | None
    prime_loss: Tensor | None
    gen_loss: Tensor | None
    logits: Tensor | None
    acts: Tensor
    weights: list[Tensor]


def bits(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in bits; logits [N, L, K], targets [N, L]."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1)) / math.log(2)


class PositionEmbedding(nn.Module):
    """A learned vector per position.

    Args:
        input_shape: the axes of the positions; tokens in time have one, which may be given as a number.
        pos_init: start as a sum of one random vector per axis, instead of one per position.
    """

    def __init__(
        self, input_shape: int | Sequence[int], width: int, init_scale: float = 1.0, pos_init: bool = False
    ) -> None:
        super().__init__()
        std = 0.01 * init_scale
        input_shape = (input_shape,) if isinstance(input_shape, int) else input_shape
        if pos_init:
            start = torch.zeros(*input_shape, width)
            for axis, size in enumerate(input_shape):
                shape = [1] * len(input_shape) + [width]
                shape[axis] = size
                start = start + torch.randn(shape) * std
            self.pos_emb = nn.Parameter(start.reshape(-1, width))
        else:
            self.pos_emb = nn.Parameter(torch.randn(math.prod(input_shape), width) * std)

    def forward(self) -> Tensor:
        return self.pos_emb


class ConditionalAutoregressive2D(nn.Module):
    """Predicts each token from those before it, and from conditioning (paper, section 4).

    The sequence is shifted right by one: position i holds token i - 1. Position 0 holds the label embedding `y_cond` or
    a learned start token. To this the position embedding and `x_cond` are added. `x_cond` is not shifted, since the
    codes of the level above are known for position i itself.

    Args:
        input_shape: shape of the positions; its product is the context length L.
        bins: number of symbols K.
        x_cond, y_cond: whether there is conditioning per position and per sequence.
        only_encode: a lyric encoder: no output head, and calls give the activations [N, L, D] themselves. Set from
            outside, it makes calls of any model do so.
        merged_decoder: output head of its own and conditioning added once. Otherwise the head shares its matrix with
            the token embedding and x_cond is added once more in front of it.
        config: of the transformer, for any context length; transformer: values of it by name, which win over it. With
            `prime_len`, the lyric characters at the start of a merged sequence, the loss is also given in two parts.

    Raises:
        TypeError: names a keyword that a `TransformerConfig` lacks.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        bins: int,
        *,
        x_cond: bool = False,
        y_cond: bool = False,
        only_encode: bool = False,
        merged_decoder: bool = False,
        config: TransformerConfig | None = None,
        **transformer: Any,
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.input_dims = math.prod(self.input_shape)
        config = TransformerConfig.of(self.input_dims, config, **transformer)
        width, init_scale = config.width, config.init_scale
        self.bins, self.width = bins, width
        self.x_cond, self.y_cond = x_cond, y_cond
        self.encoder_dims = config.encoder_dims or 0
        self.only_encode = only_encode
        self.prime_len = config.prime_len
        self.add_cond_after_transformer = not merged_decoder
        self.share_x_emb_x_out = not merged_decoder

        if not y_cond:
            self.start_token = nn.Parameter(torch.randn(1, width) * 0.01 * init_scale)
        self.x_emb = nn.Embedding(bins, width)
        nn.init.normal_(self.x_emb.weight, std=0.02 * init_scale)
        self.x_emb_dropout = nn.Dropout(config.emb_dropout)
        self.pos_emb = PositionEmbedding(self.input_shape, width, init_scale, config.pos_init)
        self.pos_emb_dropout = nn.Dropout(config.emb_dropout)
        self.transformer = Transformer(config)
        if not only_encode:
            self.x_out = nn.Linear(width, bins, bias=False)
            if self.share_x_emb_x_out:
                self.x_out.weight = self.x_emb.weight

    @staticmethod
    def preprocess(x: Tensor) -> Tensor:
        """Tokens of any shape [N, ...] and whole type -> LongTensor [N, L]."""
        return x.reshape(len(x), -1).long()

    def get_emb(
        self, sample_t: int, n_samples: int, x: Tensor | None, x_cond: Tensor | None, y_cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the transformer reads at one position, for those who step through it from outside.

        Args:
            sample_t: the position; x: the token before it [N, 1], None at position 0.
            n_samples: N; x_cond: [N, L, D], [N, 1, D] or None; y_cond: [N, 1, D] or None.

        Returns:
            Input of the transformer and conditioning (zeros without), both [N, 1, D].
        """
        held = self.first(n_samples, y_cond) if sample_t == 0 or x is None else self.x_emb(x)
        cond = held.new_zeros(held.shape) if x_cond is None else self.cond_slice(x_cond, sample_t, sample_t + 1)
        return self.embed(held, sample_t, x_cond), cond

    def first(self, n: int, y_cond: Tensor | None) -> Tensor:
        """What position 0 holds instead of a token, [N, 1, D]."""
        if self.y_cond:
            if y_cond is None or y_cond.shape != (n, 1, self.width):
                got = None if y_cond is None else list(y_cond.shape)
                raise ValueError(f"y_cond must be [{n}, 1, {self.width}], got {got}")
            return y_cond
        return self.start_token.expand(n, 1, self.width)

    def embed(self, shifted: Tensor, start: int, x_cond: Tensor | None) -> Tensor:
        """Adds position embedding and conditioning to what the positions from `start` on hold, [N, L, D]."""
        end = start + shifted.shape[1]
        x = self.x_emb_dropout(shifted) + self.pos_emb_dropout(self.pos_emb()[start:end])
        return x if x_cond is None else x + self.cond_slice(x_cond, start, end)

    def embed_shifted(self, x: Tensor, x_cond: Tensor | None, y_cond: Tensor | None) -> Tensor:
        """Tokens [N, L] from position 0 on -> input of the transformer [N, L, D]; position i holds token i - 1.

        Raises:
            ValueError: lengths that do not fit.
        """
        n, length = x.shape
        if length > self.input_dims:
            raise ValueError(f"{length} tokens do not fit the context of {self.input_dims}")
        if self.x_cond and x_cond is not None and x_cond.shape[1] not in (1, length):
            raise ValueError(f"x_cond has {x_cond.shape[1]} positions, the tokens {length}")
        shifted = torch.cat([self.first(n, y_cond), self.x_emb(x[:, :-1])], dim=1)
        return self.embed(shifted, 0, x_cond)

    def layer_outputs(
        self,
        x: Tensor,
        layers: Collection[int],
        x_cond: Tensor | None = None,
        y_cond: Tensor | None = None,
        encoder_kv: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Iterator[tuple[int, Tensor]]:
        """Activations of some layers for tokens [N, L], see `Transformer.outputs_after`; the rest as in `forward`."""
        return self.transformer.outputs_after(self.embed_shifted(x, x_cond, y_cond), layers, encoder_kv, dtype)

    @staticmethod
    def cond_slice(x_cond: Tensor, start: int, end: int) -> Tensor:
        """x_cond of some positions; one of length 1 holds for all."""
        return x_cond if x_cond.shape[1] == 1 else x_cond[:, start:end]

    def head_input(self, h: Tensor, x_cond: Tensor | None) -> Tensor:
        """Transformer output -> input of the output head; `x_cond` is that of the same positions."""
        return h if x_cond is None or not self.add_cond_after_transformer else h + x_cond

    def forward(
        self,
        x: Tensor,
        x_cond: Tensor | None = None,
        y_cond: Tensor | None = None,
        encoder_kv: Tensor | None = None,
        fp16: bool = False,
        record: Collection[int] = (),
        dtype: torch.dtype | None = None,
    ) -> Output | Tensor:
        """Runs the whole sequence at once.

        Args:
            x: tokens [N, L]; L may be shorter than the context.
            x_cond: [N, L, D] or [N, 1, D]; y_cond: [N, 1, D]; encoder_kv: [N, encoder length, D].
            dtype: type of the transformer's computation, float32 if left out; `fp16` is short for torch.half.
            record: layers whose attention weights are wanted.
        """
        h = self.embed_shifted(x, x_cond, y_cond)
        weights: list[Tensor] = []
        result = self.transformer(h, encoder_kv, record=record, dtype=read_dtype(fp16, dtype))
        h, weights = result if record else (result, weights)
        acts = self.head_input(h, x_cond)
        if self.only_encode:
            return acts
        logits = self.x_out(acts)
        prime_loss = gen_loss = None
        if self.prime_len:
            p = self.prime_len
            prime_loss = bits(logits[:, :p], x[:, :p])
            gen_loss = bits(logits[:, p:], x[:, p:]) if x.shape[1] > p else None
        return Output(bits(logits, x), prime_loss, gen_loss, logits, acts, weights)
