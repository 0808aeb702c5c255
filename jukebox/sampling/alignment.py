"""Which lyric is sung when: the attention from music to lyrics, and which head shows it best.

A prior that was trained with lyrics looks, in a few heads, at the character that is being sung (paper, section 4.2).
The attention of one such head, window after window, is the alignment of a song:

    rows: tokens of the top level, in time        columns: characters of the full lyrics

        #  .                   window 0 sees the characters of its own lyric window,
          #                    window 1 those of the next; where windows overlap, a
           . #                 row is that of the earliest window which has it
               #.

`get_alignment` makes it, `rank_heads` judges every (layer, head) that looks at lyrics. Change here what counts as a
good alignment; how it is shown is the page's business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jukebox.hparams import Hyperparams
from jukebox.prior.prior import SimplePrior
from jukebox.utils.errors import UserError
from jukebox.utils.precision import read_dtype
from jukebox.utils.sample_utils import get_starts, split_batch
from jukebox.utils.torch_utils import empty_cache

Labels = Mapping[str, Any]
MAP_BYTES = 2**28  # of the attention weights of one layer that are in memory at a time


def get_alignment(
    x: object,
    zs: Sequence[Tensor],
    labels: Labels,
    prior: SimplePrior,
    fp16: bool,
    hps: Hyperparams,
    dtype: torch.dtype | None = None,
    head: tuple[int, int] | None = None,
    one_window: bool = False,
) -> list[np.ndarray]:
    """The attention of the music to the lyrics over whole songs, by the head that the prior names.

    One window of a few songs is in memory at a time (`MAP_BYTES`).

    Args:
        x: the audio; not needed, part of the signature that notebooks use.
        zs: codes per level, low to high; the last, [N, T_top], is read. Codes shorter than the context are filled up
            with code 0, whose rows are dropped again.
        labels: `{y, info}` of the top level; `info[i]["full_tokens"]` are the lyrics.
        prior: of the top level, with `alignment_layer` and `alignment_head`.
        fp16: run it in half precision.
        hps: `levels`, and `hop_fraction` per level as the song was sampled with.
        dtype: type to run it in, if it is neither float32 nor what `fp16` says.
        head: (layer, head) to read; None is the one that the prior names.
        one_window: let a row hold what one window saw, so that its weights are at most 1 in sum. Otherwise a row adds
            what later windows saw of other characters, as the reference's numbers do.

    Returns:
        For each song a float64 array [T_top, len(full_tokens)].

    Raises:
        UserError: the prior has no lyrics or names no head.
    """
    layer, number = head or (prior.alignment_layer, prior.alignment_head)
    if not prior.n_tokens or layer is None or number is None:
        raise UserError(
            "this prior has no lyrics, or no alignment_layer and alignment_head: align.py --find finds them"
        )
    level = hps.levels - 1
    hop = max(1, int(hps.hop_fraction[level] * prior.n_ctx))
    dtype = read_dtype(fp16, dtype)
    found = _lyric_maps(zs[level], labels, prior, dtype, hop, [layer], {(layer, number)}, one_window)
    return [maps[layer, number] for maps in found]


def _lyric_maps(
    z: Tensor,
    labels: Labels,
    prior: SimplePrior,
    dtype: torch.dtype,
    hop: int,
    layers: Collection[int],
    heads: Collection[tuple[int, int]] = (),
    one_window: bool = True,
) -> Iterator[dict[tuple[int, int], np.ndarray]]:
    """For each song {(layer, head): float64 [T, characters]}; all heads of the layers if none are named."""
    n, total = z.shape
    if total < prior.n_ctx:
        z = torch.nn.functional.pad(z, (0, prior.n_ctx - total))
    starts = get_starts(z.shape[1], prior.n_ctx, hop)
    places = {start: prior.get_y(labels, start, get_indices=True) for start in starts}
    a_song = 4 * len(layers) * prior.prior.transformer.n_head * prior.n_ctx * prior.n_tokens
    for songs in split_batch(torch.arange(n), n, max(1, MAP_BYTES // a_song)):
        maps: list[dict[tuple[int, int], np.ndarray]] = [{} for _ in songs]
        for start in reversed(starts):  # so that the rows of earlier windows stay
            y, indices = places[start]
            assert y is not None and indices is not None
            weights = _attention(prior, z[songs, start : start + prior.n_ctx], y[songs], dtype, layers)
            for of_song, i in zip(maps, songs.tolist(), strict=True):
                for layer, head in heads or [(one, head) for one in layers for head in range(weights[one].shape[1])]:
                    # The last column takes what falls on padding, whose place is -1.
                    n_characters = len(labels["info"][i]["full_tokens"])
                    whole = of_song.setdefault((layer, head), np.zeros((z.shape[1], n_characters + 1)))
                    rows = whole[start : start + prior.n_ctx]
                    if one_window:
                        rows[:] = 0.0
                    rows[:, indices[i]] = weights[layer][i - int(songs[0]), head]
        for of_song in maps:
            yield {key: whole[:total, :-1] for key, whole in of_song.items()}


def _attention(
    prior: SimplePrior, z: Tensor, y: Tensor, dtype: torch.dtype, layers: Collection[int]
) -> dict[int, np.ndarray]:
    """{layer: [songs, heads, n_ctx, n_tokens]} for one window of some songs."""
    ordered = sorted(layers)
    with torch.inference_mode():
        recorded: Any = prior.z_forward(z, [], y, dtype=dtype, get_attn_weights=set(ordered))
    return {layer: weights.float().cpu().numpy() for layer, weights in zip(ordered, recorded, strict=True)}


@dataclass(frozen=True)
class HeadScore:
    """How well one head shows where in the lyrics the music is.

    Every measure and the score are in [0, 1], except `linear`, which is in [-1, 1].

    Attributes:
        linear: correlation of time and place in the lyrics, the attention of a song taken as a joint distribution of
            both: 1 if all of it is on one rising line; a sharp head that stays at one place and a blurred one are
            near 0.
        sharp: 1 - entropy of a row's attention, as a share of that of an even row, averaged over rows.
        mass: share of a row's attention that goes to real characters rather than to padding or music.
    """

    layer: int
    head: int
    linear: float
    sharp: float
    mass: float

    @property
    def score(self) -> float:
        """What heads are ranked by: linear (0 if it falls) x sharp x mass."""
        return max(0.0, self.linear) * self.sharp * self.mass


def judge(alignment: np.ndarray) -> tuple[float, float, float]:
    """The measures (linear, sharp, mass) of one song's alignment [T, characters], as HeadScore explains them."""
    mass = alignment.sum(axis=1)
    used = mass > 1e-9
    mean_mass = min(1.0, float(mass.mean())) if len(mass) else 0.0  # single precision rounds above 1
    if not used.any() or alignment.shape[1] < 2:
        return 0.0, 0.0, mean_mass
    rows = alignment[used] / mass[used, None]
    time, place = np.flatnonzero(used).astype(float), np.arange(rows.shape[1], dtype=float)
    time -= time.mean()
    share = rows.mean(axis=0)  # of each character over the whole song
    place -= (share * place).sum()
    spread = np.sqrt((time**2).mean() * (share * place**2).sum())
    linear = float((time[:, None] * rows * place).sum() / len(rows) / spread) if spread > 1e-12 else 0.0
    entropy = -(rows * np.log(np.maximum(rows, 1e-30))).sum(axis=1)
    # Padded windows see fewer characters than there are: an even row is even over those that it can see.
    reach = np.log(np.maximum(2, (rows > 0).sum(axis=1)))
    sharp = float(np.clip(1 - entropy / reach, 0, 1).mean())
    return float(np.clip(linear, -1, 1)), sharp, mean_mass


def rank_heads(
    zs: Sequence[Tensor],
    labels: Labels,
    prior: SimplePrior,
    fp16: bool,
    hps: Hyperparams,
    dtype: torch.dtype | None = None,
) -> list[HeadScore]:
    """Judges every head of every lyric layer on some songs, the best first.

    Args: as `get_alignment`. Songs without lyrics are left out.

    Raises:
        UserError: the prior has no lyric layers, or no song has lyrics.
    """
    layers = prior.prior.transformer.lyric_layers if prior.n_tokens else []
    if not layers:
        raise UserError("this prior has no layer that attends to lyrics")
    songs = [i for i, info in enumerate(labels["info"]) if len(info["full_tokens"]) > 1]
    if not songs:
        raise UserError("no song of this run has lyrics")
    z = zs[hps.levels - 1][songs]
    chosen = {"y": labels["y"][songs], "info": [labels["info"][i] for i in songs]}
    hop = max(1, int(hps.hop_fraction[hps.levels - 1] * prior.n_ctx))
    measured: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for layer in layers:  # one at a time: the maps of all layers together may not fit
        for maps in _lyric_maps(z, chosen, prior, read_dtype(fp16, dtype), hop, [layer]):
            for key, alignment in maps.items():
                measured.setdefault(key, []).append(judge(alignment))
        empty_cache()
    means = {key: np.mean(values, axis=0).tolist() for key, values in measured.items()}
    scores = [HeadScore(layer, head, *means[layer, head]) for layer, head in means]
    return sorted(scores, key=lambda s: (-s.score, s.layer, s.head))
