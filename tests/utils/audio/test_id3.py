"""Lyrics and genres in the tags of files: what FFmpeg reads of each container, and what is read here."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from jukebox.data.metadata import FolderMetadata, Notices, SongLabels
from jukebox.utils.audio.id3 import genre_name, read_synced_lyrics
from jukebox.utils.audio.index import AudioIndex
from jukebox.utils.audio.write import write_audio

TIMED = "[ar:Ann]\n[00:01,50]mila sola\n[00:02.00]timi"
SR = 48000


def labels_of(path: Path) -> SongLabels:
    entry = AudioIndex(path.parent).look_up([path.name])[path.name]
    return FolderMetadata(path.parent, Notices()).read(path.name, entry.tags, entry.seconds)


def write_tagged(path: Path, codec: str, tags: dict[str, str]) -> None:
    """Two seconds of a tone with tags, by FFmpeg."""
    tone = (0.3 * np.sin(np.arange(2 * SR) / 20)).astype(np.float32)[None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=SR)
        stream.layout = "mono"  # type: ignore[attr-defined]
        container.metadata.update(tags)
        form = stream.codec_context.format.name  # type: ignore[attr-defined]
        resampler = av.AudioResampler(format=form, layout="mono", rate=SR)
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = SR
        fifo = av.AudioFifo()
        for piece in resampler.resample(frame):
            fifo.write(piece)
        while (piece := fifo.read(stream.codec_context.frame_size or 1024)) is not None:  # type: ignore[attr-defined]
            container.mux(stream.encode(piece))  # type: ignore[attr-defined]
        container.mux(stream.encode(None))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "codec", "key"),
    [
        ("a.flac", "flac", "LYRICS"),
        ("a.flac", "flac", "SYNCEDLYRICS"),
        ("a.flac", "flac", "UNSYNCED LYRICS"),
        ("a.ogg", "libopus", "lyrics"),
        ("a.opus", "libopus", "SyncedLyrics"),
        ("a.m4a", "aac", "lyrics"),
        ("a.webm", "libopus", "UNSYNCEDLYRICS"),
        ("a.mp3", "libmp3lame", "lyrics-eng"),
    ],
)
def test_timed_lyrics_in_the_tags_of_containers(tmp_path: Path, name: str, codec: str, key: str) -> None:
    write_tagged(tmp_path / name, codec, {"artist": "Ann", "genre": "(17)", key: TIMED})
    labels = labels_of(tmp_path / name)
    assert (labels.artist, labels.genre, labels.lyrics) == ("Ann", "Rock", "mila sola\ntimi")
    assert labels.times is not None and (labels.times[0][0], labels.times[10][0]) == (1.5, 2.0)


def test_lyrics_of_our_own_files(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.mp3", np.zeros(SR), SR, tags=dict(artist="Ann", lyrics=TIMED, genre="(4)"))
    labels = labels_of(tmp_path / "a.mp3")
    assert (labels.genre, labels.lyrics) == ("Disco", "mila sola\ntimi") and labels.times is not None


# -------------------------------------------------------------------------------------------------- SYLT frames

LINES = [(1500, "mila sola"), (2000, "timi")]
SYLLABLES = [(1500, "\nmi"), (1700, "la"), (2000, "\nti"), (2250, "mi")]


def sylt(pieces: list[tuple[int, str]], encoding: int = 3, unit: int = 2) -> bytes:
    codec, zero = {0: ("latin-1", 1), 1: ("utf-16", 2), 2: ("utf-16-be", 2), 3: ("utf-8", 1)}[encoding]
    body = bytes([encoding]) + b"eng" + bytes([unit, 1]) + "x".encode(codec) + bytes(zero)
    return body + b"".join(text.encode(codec) + bytes(zero) + struct.pack(">I", ms) for ms, text in pieces)


def synchsafe(n: int) -> bytes:
    return bytes(n >> shift & 0x7F for shift in (21, 14, 7, 0))


def tagged(frame: bytes, version: int = 3, flags: int = 0, frame_flags: int = 0) -> bytes:
    other = b"a picture" * 30
    frames = b""
    for name, content in ((b"APIC", other), (b"SYLT", frame)):
        if version == 2:
            frames += name[:3].replace(b"SYL", b"SLT") + len(content).to_bytes(3, "big") + content
        else:
            size = synchsafe(len(content)) if version == 4 else struct.pack(">I", len(content))
            frames += name + size + struct.pack(">H", frame_flags if name == b"SYLT" else 0) + content
    return b"ID3" + bytes([version, 0, flags]) + synchsafe(len(frames) + 20) + frames + bytes(20)


@pytest.mark.parametrize("encoding", [0, 1, 2, 3])
@pytest.mark.parametrize("version", [2, 3, 4])
def test_synced_lyrics_of_mp3_files(tmp_path: Path, version: int, encoding: int) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(tagged(sylt(LINES, encoding), version))
    assert read_synced_lyrics(path) == "[00:01.500]mila sola\n[00:02.000]timi"
    path.write_bytes(tagged(sylt(SYLLABLES, encoding), version))
    assert read_synced_lyrics(path) == "[00:01.500]mi<00:01.700>la\n[00:02.000]ti<00:02.250>mi"


def test_a_whole_song_with_synced_lyrics(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.mp3", np.zeros(4 * SR), SR)
    music = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(tagged(sylt(SYLLABLES)) + music)
    labels = labels_of(tmp_path / "a.mp3")
    assert labels.lyrics == "mila\ntimi" and labels.times is not None
    assert [labels.times[i][0] for i in (0, 2, 5, 7)] == pytest.approx([1.5, 1.7, 2.0, 2.25])


def in_container(path: Path, tag: bytes) -> None:
    """Puts a tag into a finished file, where programs put it; an odd chunk is filled up with a zero."""
    music = path.read_bytes()
    order = {b"RIFF": "<I", b"FORM": ">I"}.get(music[:4])
    if order is None:
        path.write_bytes(tag + music)
        return
    name = b"ID3 " if music[:4] == b"FORM" else b"id3 "
    music += (
        b"junk" + struct.pack(order, 3) + b"abc\0" + name + struct.pack(order, len(tag)) + tag + bytes(len(tag) % 2)
    )
    path.write_bytes(music[:4] + struct.pack(order, len(music) - 8) + music[8:])


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.flac", "a.aac", "a.MP3", "a.mp2"])
@pytest.mark.parametrize("version", [2, 3, 4])
def test_synced_lyrics_in_other_containers(tmp_path: Path, name: str, version: int) -> None:
    codecs = {"a.wav": "pcm_s16le", "a.aiff": "pcm_s16be", "a.flac": "flac", "a.aac": "aac", "a.mp2": "mp2"}
    path = tmp_path / name
    write_tagged(path, codecs.get(name, "libmp3lame"), {})
    in_container(path, tagged(sylt(SYLLABLES), version))
    labels = labels_of(path)
    assert labels.lyrics == "mila\ntimi" and labels.times is not None
    assert [labels.times[i][0] for i in (0, 2, 5, 7)] == pytest.approx([1.5, 1.7, 2.0, 2.25])
    path.write_bytes(path.read_bytes()[:-20])  # the tag of a WAV or AIFF file breaks off
    assert "mila" in labels_of(path).lyrics or name in ("a.wav", "a.aiff")


def test_synced_lyrics_of_a_dsf_file(tmp_path: Path) -> None:
    head = b"DSD " + struct.pack("<QQQ", 28, 0, 92) + bytes(64)
    (tmp_path / "a.dsf").write_bytes(head + tagged(sylt(LINES)))
    assert read_synced_lyrics(tmp_path / "a.dsf") == "[00:01.500]mila sola\n[00:02.000]timi"


def test_what_cannot_be_read_is_no_lyrics(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    whole = tagged(sylt(LINES))
    draw = random.Random(0)
    contents = [b"", b"ID3", whole[:40], tagged(sylt(LINES, unit=1)), tagged(sylt(LINES), frame_flags=0x80)]
    for _ in range(200):
        broken = bytearray(whole)
        for _ in range(3):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        contents.append(bytes(broken))
    for i, content in enumerate(contents):
        path.write_bytes(content)
        found = read_synced_lyrics(path)
        assert isinstance(found, str) and (i > 4 or found == "")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("(17)", "Rock"),
        ("17", "Rock"),
        ("(4)(17)", "Disco; Rock"),
        ("(17)Krautrock", "Krautrock"),
        ("(200)", "(200)"),
        ("Rock", "Rock"),
        ("80s", "80s"),
        ("99", "99"),
    ],
)
def test_genres_by_number(text: str, name: str) -> None:
    assert genre_name(text) == name
