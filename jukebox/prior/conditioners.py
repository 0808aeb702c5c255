"""What a prior is conditioned on besides its own past: codes of the level above, labels, timing (paper, 4.1, 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jukebox.transformer.ops import LayerNorm
from jukebox.utils.errors import UserError
from jukebox.utils.label_row import SIGNALS, LabelRow
from jukebox.vqvae.config import ConvConfig
from jukebox.vqvae.cpu.tiling import TiledDecoderConvBlock


class Conditioner(nn.Module):
    """Turns codes of the level above into one vector per position of this level, by dilated convolutions.

    Args:
        input_shape: shape of the codes of the level above, (L_above,).
        bins: codebook entries; down_t, stride_t: how much coarser the level above is, stride_t ** down_t.
        out_width: width D of the prior.
        config: the residual stacks; stack: values of it by name, which win over it. Others are a TypeError.

    Residual blocks are saved under `blocks`; files that call them `model` load as well.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        bins: int,
        down_t: int,
        stride_t: int,
        out_width: int,
        init_scale: float = 1.0,
        config: ConvConfig | None = None,
        **stack: Any,
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.x_emb = nn.Embedding(bins, out_width)
        nn.init.normal_(self.x_emb.weight, std=0.02 * init_scale)
        config = ConvConfig.of(config, **{"blocks_name": "blocks", **stack})
        self.cond = TiledDecoderConvBlock(out_width, out_width, down_t, stride_t, config)
        self.ln = LayerNorm(out_width)

    def forward(self, z: Tensor, x_cond: Tensor | None = None) -> Tensor:
        """Codes [N, L_above] (and vectors [N, L_above, D] to add to their embedding) -> [N, L, D]."""
        x = self.x_emb(z)
        if x_cond is not None:
            x = x + x_cond
        return self.ln(self.cond(x.transpose(1, 2)).transpose(1, 2))  # [N, L_above, D] -> NCT -> [N, L, D]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        rename_residual_blocks(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def rename_residual_blocks(state_dict: dict[str, Any], prefix: str = "") -> None:
    """Renames `cond.model.S.B.model.D.` to `cond.model.S.B.blocks.D.`, in place, as some files of old call them."""
    start = f"{prefix}cond.model."
    for key in [k for k in state_dict if k.startswith(start)]:
        parts = key[len(start) :].split(".")  # stage, index in the stage, "model" or "blocks", block, ...
        if len(parts) > 4 and parts[2] == "model":
            parts[2] = "blocks"
            state_dict[start + ".".join(parts)] = state_dict.pop(key)


class LabelEmbedding(nn.Module):
    """One vector per id."""

    def __init__(self, bins: int, out_width: int, init_scale: float) -> None:
        super().__init__()
        self.bins = bins
        self.emb = nn.Embedding(bins, out_width)
        nn.init.normal_(self.emb.weight, std=0.01 * init_scale)

    def forward(self, y: Tensor) -> Tensor:
        if y.numel() and not (0 <= int(y.min()) and int(y.max()) < self.bins):
            raise UserError(
                f"label ids {int(y.min())} to {int(y.max())}, but the model knows ids 0 to {self.bins - 1}: "
                "use the label tables it was trained with, or set y_bins to the size of yours"
            )
        return self.emb(y)


SimpleEmbedding = LabelEmbedding  # the name in old code


def embed_known(embedding: nn.Module, ids: Tensor) -> Tensor:
    """The sum of the vectors of ids [N, n], [N, 1, D]; -1 adds nothing."""
    return (embedding(ids.clamp_min(0)) * (ids >= 0).unsqueeze(-1)).sum(dim=1, keepdim=True)


class RangeEmbedding(nn.Module):
    """One vector per bin of a range; positions run in equal steps from a start to an end, the end excluded.

    All arithmetic is in float32, so that bins equal those the released models were trained with.

    Args:
        n_time: positions; 1 embeds only the start.
        bins: number of bins; limits: (lower, upper) of the range; values must be in [lower, upper).
        clamp: let the end be cut to the upper limit.
    """

    def __init__(
        self,
        n_time: int,
        bins: int,
        limits: tuple[float, float],
        out_width: int,
        init_scale: float,
        clamp: bool = False,
    ) -> None:
        super().__init__()
        self.n_time, self.bins, self.limits, self.clamp = n_time, bins, limits, clamp
        self.emb = nn.Embedding(bins, out_width)
        nn.init.normal_(self.emb.weight, std=0.01 * init_scale)

    def bin_index(self, start: Tensor, end: Tensor | None = None) -> Tensor:
        """Bins [N, n_time] of positions from start to end, each [N, 1].

        Raises:
            ValueError: a position outside the range.
        """
        lower, upper = self.limits
        start = start.float()
        if not bool(((lower <= start) & (start < upper)).all()):
            raise ValueError(f"{start.flatten().tolist()} outside [{lower}, {upper})")
        if end is not None:
            end = end.float()
            if self.clamp:
                end = end.clamp(lower, upper)
            if not bool(((lower <= end) & (end <= upper)).all()):
                raise ValueError(f"{end.flatten().tolist()} outside [{lower}, {upper}]")
        if self.n_time == 1 or end is None:
            position = start
        else:
            steps = torch.arange(0, self.n_time, dtype=torch.float, device=start.device).view(1, -1) / self.n_time
            position = start + (end - start) * steps
        normalised = (position - lower) / (upper - lower)
        return (normalised * self.bins).floor().long()

    def forward(self, start: Tensor, end: Tensor | None = None) -> Tensor:
        return self.emb(self.bin_index(start, end))


class LabelConditioner(nn.Module):
    """Embeds artist, genre and other signals, and where in the song each position is (paper, section 4.1).

    Args:
        y_bins: (genres, artists).
        t_bins: bins of the timing embeddings.
        sr: sample rate in Hz; min_duration, max_duration: range of whole songs in seconds.
        n_time: positions L; out_width: width D.
        max_bow_genre_size: genre slots per song.
        include_time_signal: embed timing; a level that is conditioned on the one above leaves that to it.
        signals: names in SIGNALS, separated by commas.
    """

    def __init__(
        self,
        y_bins: Sequence[int],
        t_bins: int,
        sr: int,
        min_duration: float | None,
        max_duration: float | None,
        n_time: int,
        out_width: int,
        init_scale: float = 1.0,
        max_bow_genre_size: int = 1,
        include_time_signal: bool = True,
        signals: str = "",
    ) -> None:
        super().__init__()
        genres, artists = y_bins
        self.sr = sr
        self.row = LabelRow(max_bow_genre_size, signals=signals)
        self.include_time_signal = include_time_signal
        self.bow_genre_emb = LabelEmbedding(genres, out_width, init_scale)
        self.artist_emb = LabelEmbedding(artists, out_width, init_scale)
        self.signal_embs = nn.ModuleDict(
            {name: LabelEmbedding(SIGNALS[name].bins, out_width, init_scale) for name in self.row.signal_names}
        )
        if include_time_signal:
            if min_duration is None or max_duration is None or not 0 <= min_duration < max_duration:
                raise UserError(
                    f"min_duration={min_duration}, max_duration={max_duration}: timing labels need both, in seconds, "
                    "the first below the second; labels build prints those of your data"
                )
            shortest, longest = min_duration * sr, max_duration * sr
            self.total_length_emb = RangeEmbedding(1, t_bins, (shortest, longest), out_width, init_scale)
            self.absolute_pos_emb = RangeEmbedding(n_time, t_bins, (0.0, longest), out_width, init_scale)
            self.relative_pos_emb = RangeEmbedding(n_time, t_bins, (0.0, 1.0), out_width, init_scale, clamp=True)

    def bins(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bins of total length [N, 1], absolute position [N, n_time] and relative position [N, n_time]."""
        total, offset, length = y[:, self.row.times].float().split(1, dim=1)
        try:
            return (
                self.total_length_emb.bin_index(total),
                self.absolute_pos_emb.bin_index(offset, offset + length),
                self.relative_pos_emb.bin_index(offset / total, (offset + length) / total),
            )
        except ValueError:
            shortest, longest = (limit / self.sr for limit in self.total_length_emb.limits)
            seconds = ", ".join(
                f"{t / self.sr:g} s from {o / self.sr:g} s" for t, o, _ in y[:4, self.row.times].tolist()
            )
            raise UserError(
                f"song length and position {seconds} do not fit the model's timing labels: "
                f"a song lasts {shortest:g} s up to just under {longest:g} s, and the window must be within "
                f"{longest:g} s; change total_sample_length_in_seconds"
            ) from None

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Labels [N, row.size], without lyrics.

        Returns:
            (artist and genre embedding [N, 1, D], timing embedding [N, n_time, D] or None).
        """
        if y.dim() != 2 or y.shape[1] != self.row.size:
            raise ValueError(f"labels must be [N, {self.row.size}], got {list(y.shape)}")
        y_emb = self.artist_emb(y[:, self.row.artist]) + embed_known(self.bow_genre_emb, y[:, self.row.genre])
        for name, embedding in self.signal_embs.items():
            y_emb = y_emb + embed_known(embedding, y[:, self.row.signal(name)])
        if not self.include_time_signal:
            return y_emb, None
        total, absolute, relative = self.bins(y)
        pos_emb = (
            self.total_length_emb.emb(total) + self.absolute_pos_emb.emb(absolute) + self.relative_pos_emb.emb(relative)
        )
        return y_emb, pos_emb
