"""Audio files in and out: all formats and rates, from any place, and files that are not what they seem."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jukebox.data.synthesizer import make_song
from jukebox.utils.audio import reader, write
from jukebox.utils.audio.read import load_audio, probe_audio
from jukebox.utils.audio.reader import AudioError, resample_audio
from jukebox.utils.audio.write import save_wav, write_audio
from jukebox.utils.errors import UserError

FORMATS = ("wav", "flac", "mp3", "m4a", "opus", "ogg")
SR, SECONDS = 22050, 6.0


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """Two songs as the two channels, [T, 2]."""
    return np.stack([make_song(seed, SR, SECONDS).audio for seed in (1, 2)], axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sound: np.ndarray) -> Path:
    """`stereo.EXT` and `mono.EXT` in every format."""
    root = tmp_path_factory.mktemp("io")
    for extension in FORMATS:
        write_audio(
            root / f"stereo.{extension}", sound, SR, tags=dict(artist="Zoë & Co", genre="rock", lyrics="la\nlu")
        )
        write_audio(root / f"mono.{extension}", sound[:, 0], SR)
    return root


def lag(x: np.ndarray, y: np.ndarray, most: int = 3000) -> int:
    """Samples by which y is late against x."""
    n = 1 << (len(x) + len(y)).bit_length()
    match = np.fft.irfft(np.conj(np.fft.rfft(x, n)) * np.fft.rfft(y, n), n)
    around = np.concatenate([match[-most:], match[: most + 1]])
    return int(np.argmax(around)) - most


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("kind", ["stereo", "mono"])
def test_round_trip_keeps_time_and_length(folder: Path, sound: np.ndarray, extension: str, kind: str) -> None:
    path = folder / f"{kind}.{extension}"
    seconds, _ = probe_audio(path)
    heard, sr = load_audio(path, SR)
    assert sr == SR and heard.dtype == np.float32 and heard.shape[0] == 2 and heard.flags.c_contiguous
    assert seconds == pytest.approx(SECONDS, abs=1e-3)
    assert abs(heard.shape[1] - len(sound)) <= 1
    for channel in range(2):
        true = sound[:, channel if kind == "stereo" else 0]
        assert abs(lag(true, heard[channel])) <= 1  # encoders' delays are cut off
        assert np.corrcoef(true[:-1], heard[channel, : len(true) - 1])[0, 1] > (
            0.9999 if extension in ("wav", "flac") else 0.95
        )


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("sr", [22050, 16000, 44100])
def test_a_part_equals_the_same_part_of_the_whole(folder: Path, extension: str, sr: int) -> None:
    """The fast path seeks and starts its resampler in the middle; the slow twin decodes and resamples everything."""
    path = folder / f"stereo.{extension}"
    whole, _ = load_audio(path, sr)
    places = np.random.RandomState(0).randint(0, whole.shape[1] - sr, 12)
    for offset in [0, 1, *places, whole.shape[1] - sr // 2 - 1]:
        part, _ = load_audio(path, sr, int(offset), sr // 2)
        assert part.shape == (2, sr // 2)
        difference = part - whole[:, offset : offset + sr // 2]
        if extension == "m4a":  # AAC fills bands with noise drawn again by each decoder
            assert np.sqrt(np.mean(difference**2)) < 0.1 * np.sqrt(np.mean(whole**2))
        else:
            assert np.abs(difference).max() < 1e-6


def test_vorbis_stamps_are_not_believed_singly(tmp_path: Path) -> None:
    """Where blocks change size, FFmpeg stamps single Vorbis frames some hundred samples off."""
    sr = 22050
    t = np.arange(18 * sr) / sr
    bursts = 0.1 * np.random.RandomState(0).standard_normal((2, t.size)) * (np.sin(2 * np.pi * 0.7 * t) > 0)
    tones = [0.3 * np.sin(2 * np.pi * (200 + 30 * c + 20 * np.sin(t)) * t) for c in range(2)]
    write_audio(tmp_path / "a.ogg", (np.stack(tones) + bursts).T, sr)
    whole, _ = load_audio(tmp_path / "a.ogg", sr)
    for offset in range(4 * sr, 15 * sr, sr // 25):
        part, _ = load_audio(tmp_path / "a.ogg", sr, offset, 500)
        assert np.array_equal(part, whole[:, offset : offset + 500])


def test_resampling_is_right_in_pitch_time_and_length() -> None:
    for from_rate, to_rate in ((44100, 22050), (48000, 44100), (16000, 44100), (22050, 11025)):
        t = np.arange(2 * from_rate + 7) / from_rate
        x = np.stack([np.sin(2 * np.pi * 440 * t), np.cos(2 * np.pi * 997 * t)]).astype(np.float32)
        y = resample_audio(x, from_rate, to_rate)
        assert abs(y.shape[1] - x.shape[1] * to_rate / from_rate) <= 32
        t = np.arange(y.shape[1]) / to_rate
        true = np.stack([np.sin(2 * np.pi * 440 * t), np.cos(2 * np.pi * 997 * t)])
        assert np.abs(y - true)[:, 200:-200].max() < 1e-3


def test_the_last_samples_are_there(tmp_path: Path) -> None:
    """The filters' tails are flushed: a tone that lasts to the end is heard to the end."""
    x = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100 + 123) / 44100)
    write_audio(tmp_path / "a.flac", x, 44100)
    y, _ = load_audio(tmp_path / "a.flac", 22050, channels=1)
    assert y.shape == (1, (44100 + 123 + 1) // 2)
    assert np.abs(y[0, -60:]).max() > 0.45 and np.abs(y[0, :60]).max() > 0.45


def test_zeros_only_behind_the_end(folder: Path) -> None:
    path = folder / "stereo.wav"
    whole, _ = load_audio(path, SR)
    n = whole.shape[1]
    x, _ = load_audio(path, SR, n - 100, 400)
    assert np.array_equal(x[:, :100], whole[:, -100:]) and not x[:, 100:].any() and x.shape == (2, 400)
    with pytest.raises(AudioError, match="ends before"):
        load_audio(path, SR, n, 400)
    silent, _ = load_audio(path, SR, n + 5, 400, check_duration=False)
    assert silent.shape == (2, 400) and not silent.any()


def test_units_rates_and_channels(folder: Path) -> None:
    path = folder / "stereo.flac"
    by_samples, _ = load_audio(path, SR, 2 * SR, SR // 2)
    by_seconds, _ = load_audio(path, SR, 2.0, 0.5, time_base="sec")
    assert np.array_equal(by_samples, by_seconds)
    own, sr = load_audio(path, 8000, 2 * SR, SR // 2, resample=False)
    assert sr == SR and np.array_equal(own, by_samples)
    mono, _ = load_audio(path, SR, 2 * SR, SR // 2, channels=1)
    assert mono.shape == (1, SR // 2) and np.allclose(mono[0], by_samples.mean(axis=0), atol=1e-7)
    doubled, _ = load_audio(folder / "mono.flac", SR, 0, 100)
    assert np.array_equal(doubled[0], doubled[1])
    with pytest.raises(ValueError, match="time_base"):
        load_audio(path, SR, time_base="minutes")
    with pytest.raises(UserError, match="channels"):
        load_audio(path, SR, channels=3)
    with pytest.raises(ValueError, match="negative"):
        load_audio(path, SR, -1, 10)


@pytest.mark.parametrize("extension", FORMATS)
def test_approximate_offsets_are_near(folder: Path, extension: str) -> None:
    path = folder / f"mono.{extension}"
    exact, _ = load_audio(path, SR, 3 * SR, SR, channels=1)
    near, _ = load_audio(path, SR, 3 * SR, SR, approx=True, channels=1)
    assert near.shape == exact.shape
    assert -10 <= lag(exact[0], near[0], SR - 1) <= (1.0 if extension in ("ogg", "opus") else 0.11) * SR


def test_sample_formats_and_many_channels(tmp_path: Path) -> None:
    import soundfile

    x = 0.1 * np.random.RandomState(0).standard_normal((5000, 6))
    for subtype, error in (("PCM_U8", 0.008), ("PCM_16", 4e-5), ("PCM_24", 2e-7), ("FLOAT", 1e-7), ("DOUBLE", 1e-7)):
        soundfile.write(tmp_path / "a.wav", x[:, :2], SR, subtype=subtype)
        assert np.abs(load_audio(tmp_path / "a.wav", SR)[0].T - x[:, :2]).max() <= error
    soundfile.write(tmp_path / "a.wav", x, SR)
    mixed, _ = load_audio(tmp_path / "a.wav", SR)
    np.testing.assert_allclose(mixed, np.tile(x.mean(axis=1), (2, 1)), atol=4e-5)  # evenly, and none dropped


def test_a_file_that_cannot_be_entered_is_decoded_from_its_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "mono.mp3"
    whole, _ = load_audio(path, SR)
    opened = []
    original = reader.AudioReader._open
    monkeypatch.setattr(reader.AudioReader, "_open", lambda self: (opened.append(1), original(self))[1])
    monkeypatch.setattr(reader.AudioReader, "_seek", lambda self, sample: iter(()))
    part, _ = load_audio(path, SR, 4 * SR, 1000)
    assert np.array_equal(part, whole[:, 4 * SR : 4 * SR + 1000]) and len(opened) == 2


@pytest.mark.parametrize("extension", FORMATS)
def test_files_that_are_no_audio_are_named(tmp_path: Path, extension: str) -> None:
    contents = dict(empty=b"", text=b"no music\n" * 300, noise=np.random.RandomState(1).bytes(30000))
    for name, content in contents.items():
        path = tmp_path / f"{name}.{extension}"
        path.write_bytes(content)
        for function in (probe_audio, lambda p: load_audio(p, SR)):
            with pytest.raises(AudioError, match=f"{name}.{extension}"):
                function(path)
    with pytest.raises(AudioError, match="missing"):
        probe_audio(tmp_path / f"missing.{extension}")


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "opus", "ogg"])
def test_a_file_that_breaks_off_is_as_long_as_it_goes(folder: Path, tmp_path: Path, extension: str) -> None:
    content = (folder / f"mono.{extension}").read_bytes()
    path = tmp_path / f"half.{extension}"
    path.write_bytes(content[: len(content) // 2])
    seconds, _ = probe_audio(path)
    heard, _ = load_audio(path, SR, channels=1)
    whole, _ = load_audio(folder / f"mono.{extension}", SR, channels=1)
    assert 0.2 * SECONDS < seconds < 0.8 * SECONDS
    assert abs(heard.shape[1] / SR - seconds) < 0.3
    assert np.allclose(heard[0, :SR], whole[0, :SR], atol=1e-6)


@pytest.mark.parametrize("extension", ["flac", "opus", "ogg"])
def test_time_is_kept_across_damage(folder: Path, tmp_path: Path, extension: str) -> None:
    content = bytearray((folder / f"mono.{extension}").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = np.random.RandomState(2).bytes(400)
    path = tmp_path / f"hurt.{extension}"
    path.write_bytes(content)
    heard, _ = load_audio(path, SR, channels=1)
    whole, _ = load_audio(folder / f"mono.{extension}", SR, channels=1)
    last = slice(int(5.2 * SR), int(5.8 * SR))
    assert np.allclose(heard[0, last], whole[0, last], atol=1e-3)


def test_duration_of_an_mp3_without_a_header(folder: Path, tmp_path: Path) -> None:
    content = (folder / "mono.mp3").read_bytes()
    start = content.index(b"Info") if b"Info" in content else content.index(b"Xing")
    next_frame = content.index(content[content.index(b"\xff\xfb") :][:2], start)
    path = tmp_path / "bare.mp3"
    path.write_bytes(content[next_frame:])
    assert probe_audio(path)[0] == pytest.approx(SECONDS, abs=0.15)


@pytest.mark.parametrize("extension", FORMATS)
def test_tags_are_written_and_read(folder: Path, extension: str) -> None:
    _, tags = probe_audio(folder / f"stereo.{extension}")
    assert tags["artist"] == "Zoë & Co" and tags["genre"] == "rock"
    lyrics = {"wav": "comment", "ogg": "comment", "mp3": "lyrics-xxx"}  # MP3 lyrics have a language, not said here
    assert "la\nlu" in tags[lyrics.get(extension, "lyrics")]


def test_mp3_tags_are_frames_that_players_read(tmp_path: Path) -> None:
    tags = dict(artist="Zoë", lyrics="la\nlu", comment="made by hand", seed="4")
    write_audio(tmp_path / "a.mp3", np.zeros(8000), 8000, tags=tags)
    head = (tmp_path / "a.mp3").read_bytes()[:400]
    assert head.startswith(b"ID3\x03") and all(frame in head for frame in (b"TPE1", b"USLT", b"COMM", b"TXXX"))
    assert head.count(b"TXXX") == 1  # only the seed


@pytest.mark.parametrize("sr", [SR, SR // 2])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, sr: int) -> None:
    import soundfile

    wave = np.full((SR, 2), 0.25, np.float32)
    wave[1000, 0], wave[2000, 1], wave[3000] = np.nan, np.inf, -np.inf
    soundfile.write(tmp_path / "odd.wav", wave, SR, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"odd.wav: 4 of its samples are not finite"):
        load_audio(tmp_path / "odd.wav", sr, channels=2)
    whole, _ = load_audio(tmp_path / "odd.wav", SR, offset=4000, duration=1000, channels=2)  # the rest is well
    assert (whole == 0.25).all()


def test_writing_clips_and_refuses(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.array([0.0, 2.0, -2.0, 0.0, 0.5]), 8000)
    x, _ = load_audio(tmp_path / "a.wav", 8000, channels=1)
    assert np.allclose(x[0], [0, 1, -1, 0, 0.5], atol=1e-4)
    with pytest.raises(UserError, match=r"\.doc.*\.wav"):
        write_audio(tmp_path / "a.doc", np.zeros(10), 8000)
    with pytest.raises(ValueError, match="shape"):
        write_audio(tmp_path / "a.wav", np.zeros((10, 3)), 8000)


LONG = """
import numpy as np, soundfile, sys
from jukebox.utils.audio.read import load_audio
from jukebox.utils.audio.write import write_audio
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
with soundfile.SoundFile(sys.argv[1], "w", 44100, 2, format="FLAC") as file:
    x = 0.3 * np.sin(np.arange(10 * 44100) / 9)[:, None].repeat(2, 1)
    for _ in range(30):
        file.write(x)
load_audio(sys.argv[1], 8000, 0, 100)
before = peak()
x, _ = load_audio(sys.argv[1], 8000, channels=1)
print(x.shape[1] / 8000, peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is looked up in /proc")
def test_memory_follows_the_result_and_not_the_file(tmp_path: Path) -> None:
    """Five minutes of stereo are 106 MB at their own rate, ten times as much as the result; one frame took 900 MB."""
    done = subprocess.run([sys.executable, "-c", LONG, str(tmp_path / "a.flac")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, grown = map(float, done.stdout.split())
    assert seconds == 300 and grown < 60


@pytest.mark.parametrize("extension", ["flac", "m4a", "mp3"])
def test_pieces_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str) -> None:
    """What is encoded, and what is resampled, does not depend on the pieces that it goes in."""
    x = 0.2 * np.random.default_rng(0).standard_normal((30000, 2))
    found = []
    for piece in (1 << 18, 1000):
        monkeypatch.setattr("jukebox.utils.audio.reader.PIECE", piece)
        monkeypatch.setattr("jukebox.utils.audio.write.PIECE", piece)
        write_audio(tmp_path / f"a.{extension}", x, 16000)
        found.append(load_audio(tmp_path / f"a.{extension}", 11025)[0])
    assert np.array_equal(*found)


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp3"
    write_audio(path, 0.1 * np.ones(4000), 8000)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise RuntimeError("the encoder broke")

    monkeypatch.setattr(write, "_encode", fail)
    with pytest.raises(RuntimeError):
        write_audio(path, np.zeros(4000), 8000)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.mp3"]


def test_odd_rates_are_raised_for_encoders_that_know_few(tmp_path: Path) -> None:
    x = 0.5 * np.sin(2 * np.pi * 300 * np.arange(20000) / 10000)
    for extension in ("mp3", "opus", "m4a"):
        write_audio(tmp_path / f"a.{extension}", x, 10000)
        y, _ = load_audio(tmp_path / f"a.{extension}", 10000, channels=1)
        assert abs(y.shape[1] - 20000) < 600
        assert np.argmax(np.abs(np.fft.rfft(y[0, 2000:12000]))) == 300


def test_save_wav_writes_a_batch_or_one_item(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    batch = torch.stack([torch.full((100, 1), 0.25), torch.full((100, 1), -0.5)])
    save_wav(tmp_path / "items", batch, 8000)
    for i, value in enumerate((0.25, -0.5)):
        x, sr = load_audio(tmp_path / "items" / f"item_{i}.wav", 8000, channels=1)
        assert sr == 8000 and np.allclose(x, value, atol=1e-4)
    save_wav(tmp_path / "one.wav", batch[0], 8000)
    assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "items" / "item_0.wav").read_bytes()


def test_names_beyond_ascii(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "Ü 日本 'q\".mp3"
    shutil.copy(folder / "mono.mp3", path)
    assert probe_audio(path)[0] == pytest.approx(SECONDS, abs=1e-3)
    assert load_audio(path, SR, 0, 100)[0].shape == (2, 100)
