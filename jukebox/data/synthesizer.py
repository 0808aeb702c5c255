"""Songs made by rule, with labels that can be heard: for trying things out, for tests, and to train the demo model.

    genre    rhythm and harmony: waltz, disco, reggae, blues
    artist   timbre of the instruments, register and throat of the voice
    lyrics   what the voice sings: consonants (m l s t k) and vowels (a e i o u), every character's time known

    python -m jukebox.data.synthesizer --out=DIR --songs=64 --seconds=30 --sr=22050 --format=flac

A song depends only on its seed. All onsets are on multiples of `grid` samples. So a VQ-VAE with as many to a code sees
each sound at the same place of a code. Change here what the songs are; how they sound is in `synth_sounds.py`.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import numpy as np

from jukebox.data.lrc import format_lrc
from jukebox.data.synth_sounds import CONSONANTS, VOWELS, Timbre, bass, consonant, drum, note, vowel
from jukebox.utils.command_line import Flag, run_command
from jukebox.utils.errors import UserError
from jukebox.utils.plural import counted
from jukebox.utils.progress import progress_bar

PEAK = 10 ** (-3 / 20)  # -3 dB below full scale
VOICE, CHORDS, BASS, DRUMS = 0.45, 0.06, 0.1, 0.2  # levels in the mix
CONSONANT = 0.32  # share of a syllable
PAUSE = 0.25  # share of a word's last syllable, the space after it

ARTISTS: dict[str, Timbre] = {
    "anna bell": Timbre((1, 0, 0, 0.6, 0, 0, 0, 0.3), 0.18, 1, 58, 1.18, 0.012, 0.0),
    "bruno brass": Timbre(tuple(1 / k for k in range(1, 21)), 0.0, -1, 43, 1.0, 0.004, 0.0),
    "clara reed": Timbre(tuple(float(k % 2) / k for k in range(1, 16)), 0.0, 0, 54, 1.12, 0.02, 0.08),
    "otto organ": Timbre((1, 1, 0.6, 0.5, 0, 0.3), 0.6, 0, 50, 0.92, 0.0, 0.03),
}


@dataclass(frozen=True)
class Genre:
    """How a genre goes. A bar has `steps` steps; patterns have one character for each, "." is a rest.

    Args:
        step: seconds of a step, roughly: it is rounded to whole steps of the grid.
        steps: steps of a bar.
        chords: for each bar of the progression, semitones above the key's root.
        strum, low: patterns of the chords ("x") and of the bass (digits: place in the chord).
        drums: pattern for each drum.
        unit: steps of a sung syllable.
        length: steps that a strummed chord lasts.
    """

    step: float
    steps: int
    chords: tuple[tuple[int, ...], ...]
    strum: str
    low: str
    drums: dict[str, str] = field(hash=False)
    unit: int
    length: float


GENRES: dict[str, Genre] = {
    "waltz": Genre(
        0.29, 6, ((0, 3, 7), (5, 8, 12), (7, 11, 14), (0, 3, 7)), "..x.x.", "0.....", {"hat": "..x.x."}, 1, 1.5
    ),
    "disco": Genre(
        0.12,
        16,
        ((0, 4, 7), (7, 11, 14), (9, 12, 16), (5, 9, 12)),
        "..x...x...x...x.",
        "0.0.0.0.0.0.0.0.",
        {"kick": "x...x...x...x...", "hat": "..x...x...x...x.", "snare": "....x.......x..."},
        2,
        1.0,
    ),
    "reggae": Genre(
        0.19,
        16,
        ((0, 4, 7), (5, 9, 12)),
        "..x...x...x...x.",
        "0..0..1.....2.1.",
        {"kick": "........x.......", "rim": "........x..x....", "hat": "x.x.x.x.x.x.x.x."},
        1,
        0.7,
    ),
    "blues": Genre(
        0.15,
        12,
        ((0, 4, 7, 10), (5, 9, 12, 15), (0, 4, 7, 10), (7, 11, 14, 17)),
        "x.....x.....",
        "0..1..2..3..",
        {"kick": "x.....x.....", "snare": "...x.....x..", "hat": "x.xx.xx.xx.x"},
        2,
        4.0,
    ),
}


@dataclass(frozen=True)
class Song:
    """A synthesised song.

    `audio`: float32 [T], mono; `char_times`: (start, end) in seconds of each character of `lyrics`, one after the
        other:
    spaces and line ends have the time of their pause.
    """

    audio: np.ndarray
    sr: int
    artist: str
    genre: str
    lyrics: str
    char_times: list[tuple[float, float]]
    seed: int


T = TypeVar("T")


def _pick(rng: random.Random, options: list[T] | tuple[T, ...]) -> T:
    """A choice only by `random()`, whose sequence Python promises to keep."""
    return options[int(rng.random() * len(options))]


def default_grid(sr: int) -> int:
    """The power of two nearest to 11.6 ms: 128 samples at 11025 Hz, 512 at 44100 Hz."""
    return 2 ** round(np.log2(sr * 128 / 11025))


def make_song(
    seed: int,
    sr: int = 11025,
    seconds: float = 12.0,
    artist: str | None = None,
    genre: str | None = None,
    lyrics: str | None = None,
    grid: int | None = None,
) -> Song:
    """Makes one song.

    Args:
        seed: what it depends on; artist, genre and lyrics come from it if they are not given.
        sr: 8000 to 48000 Hz.
        seconds: length; the song is as many samples.
        artist, genre: one of ARTISTS, of GENRES.
        lyrics: words of syllables, each one of CONSONANTS and one of VOWELS; they are sung as often as they fit.
        grid: samples that all onsets are multiples of; None: about 11.6 ms.

    Raises:
        UserError: an unknown artist or genre, lyrics that cannot be sung, or a length or rate out of range.
    """
    if not 8000 <= sr <= 48000 or not 0 < seconds <= 3600:
        raise UserError(f"cannot make {seconds} s at {sr} Hz: use up to 3600 s at 8000 to 48000 Hz")
    rng = random.Random(seed)
    drawn = _pick(rng, list(ARTISTS)), _pick(rng, list(GENRES))
    artist, genre = artist or drawn[0], genre or drawn[1]
    for name, known in ((artist, ARTISTS), (genre, GENRES)):
        if name not in known:
            raise UserError(f"{name!r} is none of {', '.join(known)}")
    grid = grid or default_grid(sr)
    band = _Band(round(seconds * sr), sr, grid, ARTISTS[artist], GENRES[genre], root=int(6 * rng.random()))
    band.accompany()
    text, times = band.sing(rng, lyrics)
    x = band.mix * _fade(len(band.mix), int(0.05 * sr))
    peak = float(np.abs(x).max(initial=0.0))
    audio = (x * (PEAK / peak) if peak > 0 else x).astype(np.float32)
    return Song(audio, sr, artist, genre, text, [(a / sr, b / sr) for a, b in times], seed)


def _fade(n: int, length: int) -> np.ndarray:
    length = min(n, length)
    out = np.ones(n, np.float32)
    out[n - length :] = 0.5 + 0.5 * np.cos(np.pi * (np.arange(length) + 1) / max(1, length))
    return out


class _Band:
    """Plays one song into `mix`; all places are in samples, all onsets multiples of the grid."""

    def __init__(self, n: int, sr: int, grid: int, timbre: Timbre, genre: Genre, root: int) -> None:
        self.mix = np.zeros(n, np.float32)
        self.sr, self.grid, self.timbre, self.genre = sr, grid, timbre, genre
        self.root = root  # semitones of the key above C
        self.step = max(1, round(genre.step * sr / grid)) * grid
        self.bar = self.step * genre.steps

    def _add(self, start: int, x: np.ndarray, level: float) -> None:
        end = min(len(self.mix), start + len(x))
        if end > start:
            self.mix[start:end] += level * x[: end - start]

    def _chord(self, bar: int) -> tuple[int, ...]:
        return self.genre.chords[bar % len(self.genre.chords)]

    def accompany(self) -> None:
        """Chords, bass and drums from the first to the last bar."""
        genre, sr = self.genre, self.sr
        for bar in range(-(-len(self.mix) // self.bar)):
            chord = self._chord(bar)
            for i in range(genre.steps):
                start = bar * self.bar + i * self.step
                if genre.strum[i] == "x":
                    length = round(genre.length * self.step)
                    for pitch in chord:
                        midi = 60 + 12 * self.timbre.octave + self.root + pitch % 12
                        self._add(start, note(self.timbre, midi, length, sr), CHORDS)
                if genre.low[i] != ".":
                    rest = len(genre.low[i:]) - len(genre.low[i + 1 :].lstrip("."))  # steps to the next note
                    pitch = chord[int(genre.low[i]) % len(chord)]
                    self._add(start, bass(36 + self.root + pitch % 12, min(rest, 4) * self.step, sr), BASS)
                for kind, pattern in genre.drums.items():
                    if pattern[i] == "x":
                        self._add(start, drum(kind, sr), DRUMS)

    def sing(self, rng: random.Random, lyrics: str | None) -> tuple[str, list[tuple[int, int]]]:
        """Sings lines of words, each line from the beginning of a bar on, until no further line fits.

        Returns:
            The lyrics, and (first, after the last) sample of each character.
        """
        unit = self.genre.unit * self.step
        lines = [_split_line(line) for line in lyrics.split("\n") if line.strip()] if lyrics else None
        text: list[str] = []
        times: list[tuple[int, int]] = []
        here, pitch = 0, self.timbre.voice_low + 5
        while True:
            words = lines[0] if lines else _make_line(rng, max(2, 2 * self.bar // unit - 2))
            lines = lines[1:] + lines[:1] if lines else None
            n_units = sum(map(len, words))
            if here + n_units * unit > len(self.mix):
                break
            if text:
                text.append("\n")
                times.append((times[-1][1], here))
            for w, word in enumerate(words):
                for s, syllable in enumerate(word):
                    last = s + 1 == len(word)
                    pitch = self._next_pitch(rng, pitch, here)
                    pause = round(PAUSE * unit / self.grid) * self.grid if last else 0
                    times += self._sing_syllable(syllable, pitch, here, unit - pause)
                    text += syllable
                    here += unit
                    if last and w + 1 < len(words):
                        text.append(" ")
                        times.append((here - pause, here))
            here = -(-(here + unit) // self.bar) * self.bar  # the next line begins a bar, after a rest
        return "".join(text), times

    def _sing_syllable(self, syllable: str, midi: int, start: int, length: int) -> list[tuple[int, int]]:
        first = max(1, round(CONSONANT * length / self.grid)) * self.grid
        first = min(first, length // 2)
        self._add(start, consonant(self.timbre, syllable[0], midi, first, self.sr), VOICE)
        self._add(start + first, vowel(self.timbre, syllable[1], midi, length - first, self.sr), VOICE)
        return [(start, start + first), (start + first, start + length)]

    def _next_pitch(self, rng: random.Random, before: int, here: int) -> int:
        """A note of the present chord within the voice's octave, near the one before."""
        low = self.timbre.voice_low
        classes = {(self.root + pitch) % 12 for pitch in self._chord(here // self.bar)}
        options = sorted((m for m in range(low, low + 13) if m % 12 in classes), key=lambda m: (abs(m - before), m))
        return _pick(rng, options[:3])


def _make_line(rng: random.Random, n_units: int) -> list[list[str]]:
    """Words of one to three syllables, up to n_units syllables in all and at most ten."""
    words: list[list[str]] = []
    left = min(n_units, 10)
    while left > 0:
        size = min(left, 1 + int(3 * rng.random()))
        words.append([_pick(rng, CONSONANTS) + _pick(rng, tuple(VOWELS)) for _ in range(size)])
        left -= size
    return words


def _split_line(line: str) -> list[list[str]]:
    words = [[word[i : i + 2] for i in range(0, len(word), 2)] for word in line.split()]
    for syllable in (syllable for word in words for syllable in word):
        if len(syllable) != 2 or syllable[0] not in CONSONANTS or syllable[1] not in VOWELS:
            raise UserError(
                f"cannot sing {syllable!r} in {line!r}: words are made of syllables of one of {' '.join(CONSONANTS)} "
                f"and one of {' '.join(VOWELS)}, such as 'lama tiso'"
            )
    return words


# ------------------------------------------------------------------------------------------------- command line


def write_songs(
    out: str, songs: int = 32, seconds: float = 30.0, sr: int = 22050, format: str = "flac", seed: int = 0
) -> int:
    """Writes songs and their labels: `song_0000.flac`, `.json` (artist, genre, lyrics) and `.lrc` (timed lyrics)."""
    from jukebox.utils.audio.write import WRITABLE, write_audio
    from jukebox.utils.files import atomic_write

    if not out:
        raise UserError("--out is missing: give the folder for the songs, such as --out=FOLDER")
    if format not in WRITABLE:
        raise UserError(f"format={format}: use one of {', '.join(WRITABLE)}")
    if songs < 1:
        raise UserError(f"songs={songs}: use 1 or more")
    for i in progress_bar(range(songs), desc="songs", unit="song", disable=songs < 50):
        song = make_song(seed * 1_000_003 + i, sr, seconds)
        path = os.path.join(out, f"song_{i:04d}")
        labels = dict(artist=song.artist, genre=song.genre, lyrics=song.lyrics)
        write_audio(f"{path}.{format}", song.audio, sr, tags=dict(artist=song.artist, genre=song.genre))
        with atomic_write(f"{path}.json", "w") as file:
            file.write(json.dumps(labels, indent=1) + "\n")
        with atomic_write(f"{path}.lrc", "w") as file:
            file.write(format_lrc(song.lyrics, song.char_times, dict(ar=song.artist)))
    print(f"wrote {counted(songs, 'song')} of {seconds:g} s at {sr} Hz to {out}")
    return 0


FLAGS = [
    Flag("out", "", "folder for the songs", kind="path"),
    Flag("songs", 32, "how many"),
    Flag("seconds", 30.0, "length of each"),
    Flag("sr", 22050, "sample rate in Hz"),
    Flag("format", "flac", "wav, flac, mp3, m4a, opus or ogg"),
    Flag("seed", 0, "another seed, other songs"),
]


def command(argv: list[str] | None = None) -> NoReturn:
    """The command line `python -m jukebox.data.synthesizer ...`."""
    run_command(
        write_songs, FLAGS, "Makes songs by rule, with labels and timed lyrics, to train and to try things on.", argv
    )


if __name__ == "__main__":
    command()
