"""What the parts of the demo model do with held-out songs: codes, likelihoods, lit characters, and how audio is.

Each function takes built modules and songs, and returns figures (see `intervals.py`). Change here what is
measured; the order of things and the tables are in `report.py`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from demo.classifiers import FFT, frame_hop, log_mel
from demo.intervals import Figure, decibels, difference, figure
from torch import Tensor

from jukebox.data.synth_sounds import CONSONANTS, VOWELS
from jukebox.data.synthesizer import ARTISTS, GENRES, Song
from jukebox.page.times import character_times
from jukebox.sampling.alignment import get_alignment, rank_heads
from jukebox.vqvae.losses import spectral_convergence

BATCH = 16
FIRST = 64  # codes at the start of a window, for which there is little to go by but the labels
LIMIT = 40.0  # dB below a song's loudest cell: what is quieter makes no onset

# ------------------------------------------------------------------------------------------------------------- codes


def encode(vqvae: Any, audio: Tensor, level: int | None = None) -> list[Tensor]:
    """Codes per level [N, T_level] of audio [N, T]; a list of one level's where one is named."""
    levels = {} if level is None else {"start_level": level, "end_level": level + 1}
    with torch.inference_mode():
        parts = [vqvae.encode(part[..., None], **levels) for part in audio.split(BATCH)]
    return [torch.cat(found) for found in zip(*parts, strict=True)]


def decode(vqvae: Any, z: Tensor, level: int) -> Tensor:
    """Audio [N, T] of the codes of one level."""
    with torch.inference_mode():
        parts = [vqvae.decode([part], start_level=level, end_level=level + 1) for part in z.split(BATCH)]
    return torch.cat(parts)[..., 0]


def codec_figures(audio: Tensor, heard: Tensor, z: Tensor, bins: int, samples_per_code: int, sr: int) -> dict[str, Any]:
    """Spectral convergence in dB, codes in use, their entropy in bits and the bit rate of one level."""
    with torch.inference_mode():
        convergence = spectral_convergence(audio[..., None], heard[..., None]).tolist()
    share = torch.bincount(z.flatten(), minlength=bins).double() / z.numel()
    entropy = -(share[share > 0] * share[share > 0].log2()).sum()
    return {
        "spectral_convergence_db": decibels(convergence),
        "codes_used": int((share > 0).sum()),
        "codes": bins,
        "entropy_bits": float(entropy),
        "kbit_per_second": sr / samples_per_code * math.log2(bins) / 1000,
    }


# -------------------------------------------------------------------------------------------------------- likelihood


def meta(song: Song, **other: Any) -> dict[str, Any]:
    """The labels of a song, as sampling gives them: without the times of its lyrics."""
    return {
        "artist": song.artist,
        "genre": song.genre,
        "lyrics": song.lyrics,
        "total_length": len(song.audio),
        "offset": 0,
        **other,
    }


def after(name: str, names: Sequence[str]) -> str:
    """The name that follows in a list, the first one after the last."""
    return names[(list(names).index(name) + 1) % len(names)]


def other_letters(lyrics: str, seed: int) -> str:
    """Lyrics of the same word shapes in which every consonant and every vowel is another one."""
    rng = random.Random(seed)
    out = []
    for character in lyrics:
        kind = next((kind for kind in (CONSONANTS, tuple(VOWELS)) if character in kind), (character,))
        others = [c for c in kind if c != character] or [character]
        out.append(others[int(rng.random() * len(others))])
    return "".join(out)


def label_variants(songs: Sequence[Song], lyrics: bool) -> dict[str, list[dict[str, Any]]]:
    """Labels of the songs: right, wrong in one way each, and unknown ones."""
    artists, genres = list(ARTISTS), list(GENRES)
    found = {
        "right": [meta(song) for song in songs],
        "wrong artist": [meta(song, artist=after(song.artist, artists)) for song in songs],
        "wrong genre": [meta(song, genre=after(song.genre, genres)) for song in songs],
    }
    if lyrics:
        alike = {genre: [song.lyrics for song in songs if song.genre == genre] for genre in genres}
        turn = {genre: dict(zip(texts, texts[1:] + texts[:1], strict=True)) for genre, texts in alike.items()}
        found["another song's lyrics, same genre"] = [meta(s, lyrics=turn[s.genre][s.lyrics]) for s in songs]
        found["same word shapes, other letters"] = [meta(s, lyrics=other_letters(s.lyrics, s.seed)) for s in songs]
        found["no lyrics"] = [meta(song, lyrics="") for song in songs]
    found["unknown artist and genre" + (", no lyrics" if lyrics else "")] = [
        meta(song, artist="unknown", genre="unknown", lyrics="") for song in songs
    ]
    return found


def window_bits(prior: Any, z: Tensor, above: Sequence[Tensor], y: Tensor | None) -> Tensor:
    """Bits of every code of a window, [N, n_ctx], teacher-forced; arguments as `z_forward` takes them."""
    out = []
    with torch.inference_mode():
        for i in range(0, len(z), BATCH):
            part = slice(i, i + BATCH)
            metrics = prior.z_forward(
                z[part], [c[part] for c in above], None if y is None else y[part], get_preds=True
            )[1]
            logits = metrics["preds"].float().transpose(1, 2)
            out.append(torch.nn.functional.cross_entropy(logits, z[part], reduction="none") / math.log(2))
    return torch.cat(out)


def song_bits(prior: Any, zs: Sequence[Tensor], labels: Any, windows: int, first: int = FIRST) -> dict[str, np.ndarray]:
    """Mean bits a code of each song [N], of windows spread evenly from its start to its end, and of their first codes.

    Where labels are read, "first" is only of the window at the song's start.
    """
    z = zs[prior.level]
    ratio = prior.cond_downsample if prior.x_cond else 1
    last = (z.shape[1] - prior.n_ctx) // ratio * ratio
    found = []
    for start in sorted({round(i * last / max(1, windows - 1) / ratio) * ratio for i in range(windows)}):
        above = prior.get_z_conds(zs, start, start + prior.n_ctx) or ()
        y = prior.get_y(labels, start) if prior.y_cond else None
        found.append(window_bits(prior, z[:, start : start + prior.n_ctx], above, y))
    heads = found[:1] if prior.y_cond else found
    return {
        "all": torch.stack(found).mean((0, 2)).double().numpy(),
        "first": torch.stack(heads)[..., :first].mean((0, 2)).double().numpy(),
    }


def compare_bits(variants: dict[str, Callable[[], dict[str, np.ndarray]]]) -> dict[str, dict[str, Figure]]:
    """Bits of each variant, and how many more than those of the first one, song by song."""
    found = {name: work() for name, work in variants.items()}
    right = next(iter(found.values()))
    out: dict[str, dict[str, Figure]] = {}
    for name, bits in found.items():
        out[name] = {"bits": figure(bits["all"]), "first_bits": figure(bits["first"])}
        if bits is not right:
            out[name]["more"] = difference(right["all"], bits["all"])
            out[name]["more_first"] = difference(right["first"], bits["first"])
    return out


def label_bits(prior: Any, zs: Sequence[Tensor], songs: Sequence[Song]) -> dict[str, dict[str, Figure]]:
    """Bits a code of a prior with labels, with right, wrong and no labels."""
    variants = label_variants(songs, bool(prior.n_tokens)) if prior.y_cond else {"right": [meta(s) for s in songs]}
    return compare_bits(
        {
            name: lambda metas=metas: song_bits(prior, zs, prior.labeller.get_batch_labels(metas), 2)  # type: ignore[misc]
            for name, metas in variants.items()
        }
    )


def upsampler_bits(prior: Any, zs: Sequence[Tensor], songs: Sequence[Song], windows: int) -> dict[str, Any]:
    """Bits a code of an upsampler, with the codes above of the song itself and of another one."""
    labels = prior.labeller.get_batch_labels([meta(song) for song in songs])
    other = [*zs[: prior.level + 1], *(z.roll(1, 0) for z in zs[prior.level + 1 :])]
    return compare_bits(
        {
            "its own codes above": lambda: song_bits(prior, zs, labels, windows),
            "another song's codes above": lambda: song_bits(prior, other, labels, windows),
        }
    )


# ------------------------------------------------------------------------------------------------------------ lyrics


def align(prior: Any, zs: Sequence[Tensor], metas: Sequence[Any], shift: int, per_code: float) -> list[Any]:
    """When each character is sung, by the attention of the top prior: a CharacterTimes for each song."""
    hps = _Settings(levels=len(zs), hop_fraction=[0.5] * len(zs))
    labels = prior.labeller.get_batch_labels(metas)
    return [character_times(a, per_code, shift=shift) for a in get_alignment(None, zs, labels, prior, False, hps)]


class _Settings(dict[str, Any]):
    __getattr__ = dict.__getitem__


def lit_figures(songs: Sequence[Song], times: Sequence[Any], per_code: float) -> dict[str, Figure]:
    """Distance of the lit character from the one being sung, and of the straight-line guess, in ms and share exact."""
    from lyric_alignment import lit_errors

    pairs = [lit_errors(song, t.lit.tolist(), per_code) for song, t in zip(songs, times, strict=True)]
    out = {}
    for i, name in enumerate(("lit", "even")):
        errors = [1000 * np.array(pair[i]) for pair in pairs]
        out[f"{name}_mean_ms"] = figure(errors)
        out[f"{name}_median_ms"] = figure(errors, np.median)
        out[f"{name}_exact"] = figure([e == 0 for e in errors])
    return out


def named_head(prior: Any, zs: Sequence[Tensor], songs: Sequence[Song]) -> dict[str, Any]:
    """Whether `rank_heads` names the head that the model uses, from all songs together and from single ones."""
    hps = _Settings(levels=len(zs), hop_fraction=[0.5] * len(zs))
    used = (prior.alignment_layer, prior.alignment_head)

    def best(chosen: slice) -> tuple[int, int]:
        labels = prior.labeller.get_batch_labels([meta(song) for song in songs[chosen]])
        first = rank_heads([z[chosen] for z in zs], labels, prior, False, hps)[0]
        return first.layer, first.head

    single = [best(slice(i, i + 1)) == used for i in range(len(songs))]
    return {"used": list(used), "named": list(best(slice(None))), "single_songs": figure(single)}


# ------------------------------------------------------------------------------------------------------------- audio


def sound_figures(audio: Tensor, sr: int) -> dict[str, np.ndarray]:
    """How loud, how noisy and how busy songs are, audio [N, T].

    Returns:
        Per song [N]: `rms_db` (full scale is 0 dB), `flatness` (geometric over arithmetic mean of the power spectrum,
        mean over frames; noise is near 1) and `onsets_per_second`.
    """
    hop = frame_hop(sr)
    flat = []
    for part in audio.split(BATCH):
        spectrum = torch.stft(part, FFT, hop, window=torch.hann_window(FFT), return_complex=True)
        power = spectrum.abs().square().clamp_min(1e-10)
        flat.append((power.log().mean(1).exp() / power.mean(1)).mean(1))
    onsets = [count_onsets(mel) for mel in log_mel(audio, sr)]
    return {
        "rms_db": (10 * audio.square().mean(1).clamp_min(1e-12).log10()).numpy(),
        "flatness": torch.cat(flat).numpy(),
        "onsets_per_second": np.array(onsets) / (audio.shape[1] / sr),
    }


def count_onsets(mel: Tensor, around: int = 3, rise: float = 0.12) -> int:
    """Peaks of the spectral flux of one song's log-mel spectrogram [MELS, F].

    A peak is the largest within `around` frames, and above the mean of a quarter second around it by `rise` (10 dB).
    """
    loud = mel.clamp_min(-LIMIT / 10)
    flux = torch.cat([torch.zeros(1), (loud[:, 1:] - loud[:, :-1]).clamp_min(0).mean(0)])[None]
    largest = torch.nn.functional.max_pool1d(flux, 2 * around + 1, 1, around)
    mean = torch.nn.functional.avg_pool1d(flux, 23, 1, 11, count_include_pad=False)
    return int(((flux == largest) & (flux > mean + rise)).sum())
