"""The synthesiser: deterministic, clean, on its grid, and with labels that a simple listener can hear."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jukebox.data.lrc import parse_lyrics
from jukebox.data.synth_sounds import CONSONANTS, VOWELS, bass, consonant, drum, note, vowel
from jukebox.data.synthesizer import ARTISTS, GENRES, default_grid, make_song, write_songs
from jukebox.data.text_processor import TextProcessor
from jukebox.utils.audio.read import load_audio, probe_audio
from jukebox.utils.errors import UserError


def spectra(x: np.ndarray, hop: int = 256, n: int = 512) -> np.ndarray:
    """Log magnitudes [frames, bins]."""
    starts = range(0, len(x) - n + 1, hop)
    return np.log(np.abs(np.fft.rfft(np.stack([x[i : i + n] for i in starts]) * np.hanning(n))) + 1e-3)


def bands(frames: np.ndarray) -> np.ndarray:
    """Mean over frames of the log magnitude in 20 bands."""
    edges = np.unique(np.round(np.geomspace(4, frames.shape[1], 21)).astype(int))
    return np.array([frames[:, a:b].mean() for a, b in zip(edges, edges[1:], strict=False)])


def listen(train: list[tuple[str, np.ndarray]], test: list[tuple[str, np.ndarray]]) -> float:
    """Share of the test items whose class a linear discriminant finds."""
    names = sorted({name for name, _ in train})
    means = {name: np.mean([x for n, x in train if n == name], axis=0) for name in names}
    spread = np.cov(np.array([x - means[n] for n, x in train]).T)
    inverse = np.linalg.inv(spread + 1e-3 * np.eye(len(spread)))
    hits = [min(names, key=lambda n: (x - means[n]) @ inverse @ (x - means[n])) == name for name, x in test]
    return float(np.mean(hits))


def test_same_seed_same_song_and_another_seed_another() -> None:
    one, again, other = make_song(5, 11025, 6.0), make_song(5, 11025, 6.0), make_song(6, 11025, 6.0)
    assert np.array_equal(one.audio, again.audio) and one.lyrics == again.lyrics
    assert one.lyrics != other.lyrics
    assert make_song(5, 22050, 6.0).lyrics == one.lyrics  # the rate changes only the sound


@pytest.mark.parametrize("sr", [11025, 22050, 44100])
def test_level_and_length(sr: int) -> None:
    for seed in range(4):
        song = make_song(seed, sr, 5.3)
        assert song.audio.dtype == np.float32 and song.audio.shape == (round(5.3 * sr),)
        assert abs(np.abs(song.audio).max() - 10 ** (-3 / 20)) < 1e-4
        assert abs(song.audio[-1]) < 1e-3  # faded out


def test_no_sound_begins_or_ends_with_a_click() -> None:
    for sr in (11025, 44100):
        n = sr // 4
        sounds = [drum(kind, sr) for kind in ("kick", "snare", "hat", "rim")] + [bass(40, n, sr)]
        for timbre in ARTISTS.values():
            sounds += [note(timbre, 64, n, sr)]
            sounds += [vowel(timbre, letter, 60, n, sr) for letter in VOWELS]
            sounds += [consonant(timbre, letter, 60, n // 3, sr) for letter in CONSONANTS]
        for x in sounds:
            edge = max(1, sr // 4000)  # a quarter of a millisecond
            assert max(np.abs(x[:edge]).max(), np.abs(x[-edge:]).max()) < 0.1 * np.abs(x).max()
            assert x.dtype == np.float32


def test_characters_have_times_in_order_and_on_the_grid() -> None:
    for genre in GENRES:
        song = make_song(3, 11025, 12.0, genre=genre)
        assert len(song.lyrics) == len(song.char_times) > 20
        grid = default_grid(11025)
        assert grid == 128
        before = 0.0
        for start, end in song.char_times:
            assert start == pytest.approx(before) and end > start  # one after the other, none without time
            for t in (start, end):
                assert abs(t * 11025 / grid - round(t * 11025 / grid)) < 1e-6
            before = end
        assert before <= 12.0
        processor = TextProcessor(v3=True)
        assert processor.clean(song.lyrics) == song.lyrics


def test_labels_can_be_chosen() -> None:
    song = make_song(1, 11025, 8.0, artist="clara reed", genre="blues", lyrics="lama tiso\nmu")
    assert (song.artist, song.genre) == ("clara reed", "blues")
    assert song.lyrics.startswith("lama tiso\nmu\nlama tiso")
    for wrong in (dict(artist="nobody"), dict(genre="noise"), dict(lyrics="hello"), dict(seconds=0.0), dict(sr=4000)):
        with pytest.raises(UserError):
            make_song(1, **{"sr": 11025, "seconds": 4.0, **wrong})


def test_a_song_too_short_to_sing_has_no_lyrics() -> None:
    song = make_song(2, 11025, 0.3)
    assert song.lyrics == "" and song.char_times == [] and len(song.audio) == round(0.3 * 11025)


def test_vowels_and_artists_can_be_heard() -> None:
    parts = []
    for seed in range(90):
        song = make_song(seed, 11025, 8.0)
        for character, (start, end) in zip(song.lyrics, song.char_times, strict=True):
            piece = song.audio[int(start * 11025) : int(end * 11025)]
            if character in "aeiou" and len(piece) >= 512:
                parts.append((seed < 60, character, song.artist, bands(spectra(piece, 128))))
    for column, chance, least in ((1, 0.2, 0.75), (2, 0.25, 0.8)):
        train = [(p[column], p[3]) for p in parts if p[0]]
        test = [(p[column], p[3]) for p in parts if not p[0]]
        assert len(test) > 400
        assert listen(train, test) > least > 3 * chance * 0.95


def test_genres_can_be_heard_by_their_rhythm() -> None:
    def rhythm(x: np.ndarray) -> np.ndarray:
        frames = spectra(x, hop=128)
        rise = np.maximum(0, np.diff(frames, axis=0))
        out = []
        for band in (rise[:, 1:8], rise[:, 120:]):
            onset = band.mean(axis=1) - band.mean()
            power = np.abs(np.fft.rfft(onset, 1024)) ** 2
            out.append(np.fft.irfft(power)[20:160:5] / power.sum() * 1024)  # how alike onsets are after 0.2 to 1.8 s
        return np.concatenate(out)

    songs = [make_song(seed, 11025, 8.0) for seed in range(120)]
    rows = [(song.genre, rhythm(song.audio)) for song in songs]
    assert listen(rows[:80], rows[80:]) > 0.75


def test_files_with_sidecars(tmp_path: Path) -> None:
    write_songs(str(tmp_path), songs=2, seconds=4.0, sr=22050, format="mp3", seed=3)
    song = make_song(3 * 1_000_003, 22050, 4.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"song_000{i}.{extension}" for i in (0, 1) for extension in ("json", "lrc", "mp3")
    ]
    labels = json.loads((tmp_path / "song_0000.json").read_text())
    assert labels == dict(artist=song.artist, genre=song.genre, lyrics=song.lyrics)
    timed = parse_lyrics((tmp_path / "song_0000.lrc").read_text())
    assert timed is not None and timed.text == song.lyrics
    for c, read, true in zip(timed.text, timed.times, song.char_times, strict=True):
        if c != "\n":
            assert read == pytest.approx(true, abs=0.002)
    assert probe_audio(tmp_path / "song_0000.mp3")[0] == pytest.approx(4.0, abs=0.06)
    heard, _ = load_audio(tmp_path / "song_0000.mp3", 22050, channels=1)
    assert np.corrcoef(heard[0, : len(song.audio)], song.audio[: heard.shape[1]])[0, 1] > 0.95


@pytest.mark.parametrize("wrong", [dict(out=""), dict(format="doc"), dict(songs=0)])
def test_wrong_use_is_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(UserError):
        write_songs(**{"out": str(tmp_path), "songs": 1, "seconds": 1.0, **wrong})
