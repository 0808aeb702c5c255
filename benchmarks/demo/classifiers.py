"""Small classifiers that hear what a synthesised song is: its artist, its genre, and each sung vowel and consonant.

They learn only from synthesised songs, made on the fly, and judge audio of any origin: real songs, what the VQ-VAE
makes of them, and songs that a model made. Small networks read log-mel spectrograms: of whole songs (convolutions over
time), or of a moment of about 0.1 s (two dense layers). Training all four takes about half a minute on one core.

    songs = [make_song(seed) for seed in range(TRAIN_SEED, TRAIN_SEED + 400)]
    hear = Listeners.train(songs, stack(songs), 11025)
    hear.guess("artist", whole_songs(log_mel(audio, 11025)))           # indices into hear.classes["artist"]

Change here what the classifiers hear; how often they are right is counted in `intervals.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jukebox.data.synth_sounds import CONSONANTS, VOWELS
from jukebox.data.synthesizer import ARTISTS, GENRES, Song

TRAIN_SEED = 60_000_000  # songs that neither the models were trained on nor the figures are measured with
FFT, MELS = 512, 40
FRAMES = 9  # of a moment: about 0.1 s
JITTER = 0.04  # seconds: moments to learn from are this far around the middle, since an alignment is not exact
POOL = 4  # frames that are averaged where a whole song is listened to
RANGE = 6.0  # log10 of power below a song's loudest cell that still counts: 60 dB
CLASSES: dict[str, tuple[str, ...]] = {
    "artist": tuple(ARTISTS),
    "genre": tuple(GENRES),
    "vowel": tuple(VOWELS),
    "consonant": tuple(CONSONANTS),
}


# ---------------------------------------------------------------------------------------------------- what they hear


def frame_hop(sr: int) -> int:
    """Samples between two frames: about 11.6 ms."""
    return round(sr * 128 / 11025)


def mel_filters(sr: int) -> Tensor:
    """Triangles that are evenly spaced on the mel scale (2595 log10(1 + f / 700)), [MELS, FFT // 2 + 1]."""
    top = 2595 * np.log10(1 + sr / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    hz = np.linspace(0, sr / 2, FFT // 2 + 1)
    rise = (hz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - hz) / np.diff(edges)[1:, None]
    return torch.from_numpy(np.maximum(0, np.minimum(rise, fall))).float()


def log_mel(audio: Tensor, sr: int, at_a_time: int = 32) -> Tensor:
    """Log-mel spectrograms, each relative to its own loudest cell.

    Args:
        audio: float [N, T]; sr: its rate in Hz.
        at_a_time: songs that are in memory as spectra at once.

    Returns:
        [N, MELS, T // hop + 1] in units of 10 dB, from -RANGE to 0; frame i is centred at i * hop samples.
    """
    filters, window, hop = mel_filters(sr), torch.hann_window(FFT), frame_hop(sr)
    out = []
    for part in audio.split(at_a_time):
        spectrum = torch.stft(part, FFT, hop, window=window, center=True, return_complex=True)
        power = filters @ spectrum.abs().square()
        peak = power.amax(dim=(1, 2), keepdim=True).clamp_min(1e-10)
        out.append((power / peak).clamp_min(10**-RANGE).log10())
    return torch.cat(out)


def whole_songs(mels: Tensor) -> Tensor:
    """What the networks for whole songs read of [N, MELS, F]: time in coarser steps, [N, MELS, F // POOL]."""
    return nn.functional.avg_pool1d(mels, POOL)


def cut(mel: Tensor, seconds: Sequence[float], sr: int) -> Tensor:
    """Moments of one song.

    Args:
        mel: [MELS, F], see `log_mel`; seconds: the middle of each moment; sr: the audio's rate in Hz.

    Returns:
        [len(seconds), MELS, FRAMES]; beyond the song's ends its first or last frame is repeated.
    """
    middle = torch.tensor([round(t * sr / frame_hop(sr)) for t in seconds], dtype=torch.long)
    index = (middle[:, None] + torch.arange(FRAMES) - FRAMES // 2).clamp(0, mel.shape[1] - 1)
    return mel[:, index].transpose(0, 1)


def sung(
    lyrics: str, starts: Sequence[float], ends: Sequence[float], letters: Sequence[str], until: float
) -> list[tuple[str, float]]:
    """The characters of a kind and the middle of the time in which each is sung.

    Args:
        lyrics: of the song; starts, ends: seconds of each character, nan where it is not known.
        letters: which characters are wanted.
        until: seconds that there are; a character counts if its middle is before.

    Returns:
        (character, seconds) in order; without those whose times are not known.
    """
    middles = [(start + end) / 2 for start, end in zip(starts, ends, strict=True)]
    return [(c, t) for c, t in zip(lyrics, middles, strict=True) if c in letters and t < until]  # nan < until is False


# ----------------------------------------------------------------------------------------------------------- networks


class SongNet(nn.Module):
    """[N, MELS, F // POOL] -> [N, classes]: convolutions over time, then mean and maximum over it."""

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(MELS, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv1d(width, width, 9, stride=2, padding=4),
            nn.ReLU(),
            nn.Conv1d(width, width, 9, padding=4),
            nn.ReLU(),
        )
        self.out = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(x)
        return self.out(torch.cat([h.mean(-1), h.amax(-1)], dim=1))


class MomentNet(nn.Module):
    """[N, MELS, FRAMES] -> [N, classes]."""

    def __init__(self, classes: int, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(MELS * FRAMES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(x))


def spoil(x: Tensor) -> Tensor:
    """Another colour and some noise, so that what is heard does not hang on fine detail."""
    return x + 0.2 * torch.randn(len(x), MELS, 1) + 0.1 * torch.randn_like(x)


def train(net: nn.Module, x: Tensor, y: Tensor, steps: int, batch: int, lr: float = 2e-3) -> nn.Module:
    """Trains a network with AdamW along a one-cycle schedule on inputs [N, MELS, F] and classes [N]."""
    optimizer = torch.optim.AdamW(net.parameters(), lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(x), (batch,))
        loss = nn.functional.cross_entropy(net(spoil(x[chosen])), y[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@dataclass
class Listeners:
    """The four trained networks.

    `classes`: names per kind, "artist", "genre", "vowel" and "consonant"; `nets`: the network of each kind.
    """

    nets: dict[str, nn.Module]
    classes: dict[str, tuple[str, ...]] = field(default_factory=lambda: CLASSES)

    @classmethod
    def train(cls, songs: Sequence[Song], audio: Tensor, sr: int, steps: int = 500, seed: int = 0) -> Listeners:
        """Trains on songs.

        Args:
            songs: with labels and times; one that is there in several versions is given as often.
            audio: [N, T], the songs from their start on, as long as those to be judged.
            sr: its rate in Hz; steps: of each network's training; seed: of all that is random in it.
        """
        mels = log_mel(audio, sr)
        whole, nets = whole_songs(mels), {}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for kind in ("artist", "genre"):
                y = torch.tensor([CLASSES[kind].index(getattr(song, kind)) for song in songs])
                nets[kind] = train(SongNet(len(CLASSES[kind])), whole, y, steps, 32)
            for kind in ("vowel", "consonant"):
                x, letters = [], []
                for mel, song in zip(mels, songs, strict=True):
                    starts, ends = zip(*song.char_times, strict=True)
                    found = sung(song.lyrics, starts, ends, CLASSES[kind], audio.shape[1] / sr)
                    jitter = ((torch.rand(len(found)) - 0.5) * JITTER).tolist()
                    x.append(cut(mel, [t + j for (_, t), j in zip(found, jitter, strict=True)], sr))
                    letters += [CLASSES[kind].index(c) for c, _ in found]
                net = MomentNet(len(CLASSES[kind]))
                nets[kind] = train(net, torch.cat(x), torch.tensor(letters), 2 * steps, 128, lr=1e-3)
        return cls(nets)

    def guess(self, kind: str, x: Tensor) -> np.ndarray:
        """The likeliest class of each input, as indices [N]; inputs are songs or moments, as the kind has it."""
        if len(x) == 0:
            return np.zeros(0, dtype=int)
        with torch.inference_mode():
            return np.concatenate([self.nets[kind](part).argmax(-1).numpy() for part in x.split(256)])

    def songs(self, kind: str, audio: Tensor, sr: int, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(truth, guess) of each song's artist or genre, as indices [N]; audio [N, T], `names` what was asked for."""
        truth = np.array([self.classes[kind].index(name) for name in names])
        return truth, self.guess(kind, whole_songs(log_mel(audio, sr)))

    def letters(
        self, kind: str, audio: Tensor, sr: int, lyrics: Sequence[str], times: Sequence[Any]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(truth, guess) of each song's sung vowels or consonants.

        Args:
            kind: "vowel" or "consonant".
            audio: [N, T]; sr: its rate.
            lyrics: of each song; times: its (starts, ends) in seconds, one per character.
        """
        out = []
        for mel, text, (starts, ends) in zip(log_mel(audio, sr), lyrics, times, strict=True):
            found = sung(text, starts, ends, self.classes[kind], audio.shape[1] / sr)
            truth = np.array([self.classes[kind].index(c) for c, _ in found], dtype=int)
            out.append((truth, self.guess(kind, cut(mel, [t for _, t in found], sr))))
        return out


def stack(songs: Sequence[Song]) -> Tensor:
    """Audio of songs of one length, float32 [N, T]."""
    return torch.from_numpy(np.stack([song.audio for song in songs]))
