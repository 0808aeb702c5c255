"""Activations of a prior's layers for windows of audio.

    audio -> codes (VQ-VAE) -> tokens with labels in front -> layers 1 .. the last wanted one -> [L, D] of each wanted

Windows are independent of each other and of the batch that they run in. Each is encoded by itself, from audio that
begins and ends where it does, as in training. Change here what a window is conditioned on and how it runs; which
windows a file has and where results go is in `feature_writer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jukebox.data.labels import Labeller
from jukebox.loaders import Level, Model
from jukebox.utils.errors import UserError
from jukebox.utils.precision import torch_dtype


@dataclass(frozen=True)
class AudioWindow:
    """One window of a file.

    Attributes:
        audio: float32 [T, 1], T = positions * raw samples per position, at most a context.
        offset: where it begins in the file, in samples; total: length of the file in samples. For the timing labels.
    """

    audio: Tensor
    offset: int
    total: int


class Extractor:
    """A VQ-VAE and one prior, ready to give activations.

    Args:
        model: what --model names.
        level: of the prior, 0 the finest.
        layers: counted from 1: 36 is what the 36th layer hands on to the 37th, the sum of all branches so far.
        device: where to run.
        dtype: `fp32`, `fp16` or `bf16`: type of the prior's matrices and arithmetic.
        artist, genre: labels of all files; "" is unknown, id 0, for which no label table is needed.

    Attributes:
        sr: sample rate in Hz; samples_per_code: of each position; n_ctx: positions of a window; width: D.
        ratio: windows begin and end at multiples of this many positions.
        notices: lines to tell the user.

    Raises:
        UserError: no such level or layer.
    """

    def __init__(
        self,
        model: Model,
        level: int,
        layers: Sequence[int],
        device: torch.device,
        dtype: str = "fp32",
        artist: str = "",
        genre: str = "",
    ) -> None:
        self.level, self.layers, self.device = level, list(layers), device
        self._of = check_layers(model, level, layers)
        self.hps = self._of.hps
        self.sr, self.samples_per_code = model.sr, self._of.samples_per_code
        self.n_ctx, self.width = self._of.n_ctx, self.hps.prior_width
        self.ratio = 1 if level == len(model.levels) - 1 else model.samples_per_code[level + 1] // self.samples_per_code
        self.notices: list[str] = []
        self._ids = self._label_ids(artist, genre)
        self._dtype = torch_dtype(dtype)
        top = model.samples_per_code[-1]
        self._vqvae = model.vqvae(math.ceil(self.n_ctx * self.samples_per_code / top) * top, device)
        lazy = model.prior(level, self._vqvae, device, dtype)
        assert lazy is not None
        self._prior, self.release = lazy.load(), lazy.release

    # ------------------------------------------------------------------------------------------ labels

    def _label_ids(self, artist: str, genre: str) -> tuple[int, list[int]]:
        if not self.hps.labels:
            if artist or genre:
                self.notices.append("the model was trained without labels: artist and genre have no effect")
            return 0, [0]
        labeller = self._of.labeller
        if artist or genre:
            lines = labeller.unknown_names(artist, genre)
            self.notices += [line for line in lines if (artist if line.startswith("artist") else genre)]
        assert isinstance(labeller, Labeller)
        names = labeller.ag_processor
        return names.get_artist_id(artist) if artist else 0, names.get_genre_ids(genre) if genre else [0]

    def labels(self, window: AudioWindow) -> Tensor | None:
        """The label row [1, ...] of a window: its place in the file, the labels of all files, no lyrics.

        Lengths and places that the model's timing does not know become the nearest that it knows.
        """
        if not self.hps.labels:
            return None
        total, offset = window.total, window.offset
        sample_length = self._of.sample_length
        if self.hps.min_duration is not None and self.hps.max_duration is not None:
            longest = int(self.hps.max_duration * self.sr)
            total = min(max(total, math.ceil(self.hps.min_duration * self.sr)), longest - self.samples_per_code)
            offset = min(offset, longest - sample_length)
        offset = max(0, min(offset, total - 1))
        labeller = self._of.labeller
        assert isinstance(labeller, Labeller)
        artist, genres = self._ids
        return labeller.get_y_from_ids(artist, genres, [0] * self._of.n_tokens, total, offset)[None].to(self.device)

    # ------------------------------------------------------------------------------------------ running

    @torch.inference_mode()
    def run(self, windows: Sequence[AudioWindow]) -> Iterator[tuple[int, Tensor]]:
        """Activations of a batch of windows, one layer after the other.

        Position i has seen codes 0 to i - 1 of its window, the labels, and the codes above of all positions. It is what
        the model knows when it predicts code i.

        Args:
            windows: of any lengths; shorter ones are filled up after their end, where causal layers do not look.

        Yields:
            (layer, [N, L, D] in the type of computation) in ascending order, L the longest window's positions; rows
            after the end of a shorter window mean nothing.
        """
        codes, x_conds, y_conds, lyrics = [], [], [], []
        longest = max(len(window.audio) for window in windows) // self.samples_per_code
        for window in windows:
            own, *above = self._vqvae.encode(
                window.audio[None].to(self.device),
                start_level=self.level,
                end_level=min(self.level + 2, self._vqvae.levels),
            )
            x_cond, y_cond, prime = self._prior.get_cond(above, self.labels(window))
            codes.append(_fit(own, longest))
            x_conds.append(None if x_cond is None else _fit(x_cond, longest))
            y_conds.append(y_cond)
            lyrics.append(prime)
        z, x_cond, y_cond, prime = (_join(parts) for parts in (codes, x_conds, y_conds, lyrics))
        assert z is not None
        merged, model = self._prior.merged, self._prior.prior
        if merged is not None:
            assert prime is not None
            z, x_cond = merged.merge(prime, z), merged.conditioning(x_cond, len(windows), model.width, self.device)
        encoder_kv = self._prior.get_encoder_kv(prime, dtype=self._dtype)
        first = 0 if merged is None else merged.n_lyrics
        for layer, h in model.layer_outputs(z, self.layers, x_cond, y_cond, encoder_kv, self._dtype):
            yield layer, h[:, first:]


def check_layers(model: Model, level: int, layers: Sequence[int]) -> Level:
    """The level of a model, if it and the layers exist.

    Raises:
        UserError: they do not; says which do.
    """
    known = [i for i, found in enumerate(model.levels) if found is not None]
    if level not in known:
        raise UserError(f"--level={level}: model {model.name} has priors of levels {', '.join(map(str, known))}")
    found = model.levels[level]
    assert found is not None
    depth = found.hps.prior_depth
    if not layers or not all(1 <= layer <= depth for layer in layers):
        given = ",".join(map(str, layers))
        raise UserError(
            f"--layers={given}: level {level} of model {model.name} has layers 1 to {depth}; give one or several, such "
            f"as --layers={max(1, depth // 2)}"
        )
    return found


def _fit(x: Tensor, length: int) -> Tensor:
    """Cuts or fills [1, L, ...] with zeros to a length; [1, 1, D], which holds for all positions, stays."""
    if x.dim() == 3 and x.shape[1] == 1:
        return x
    if x.shape[1] >= length:
        return x[:, :length]
    return torch.cat([x, x.new_zeros(1, length - x.shape[1], *x.shape[2:])], dim=1)


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None
