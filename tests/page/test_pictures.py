"""The alignment's PNG, read back by a reader of its own, and the waveform's outline."""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pytest

from jukebox.page.pictures import BUCKETS, INK, alignment_picture, waveform_path


def read_png(data: bytes) -> tuple[np.ndarray, dict[bytes, bytes]]:
    """Reads a palette PNG without filters, checking every checksum. Returns uint8 [H, W] and the chunks."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", data, place + 8 + length)[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + length
    assert list(chunks)[0] == b"IHDR" and list(chunks)[-1] == b"IEND"
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:], chunks


def test_picture_has_time_to_the_right_and_lyrics_down() -> None:
    alignment = np.zeros((5, 3))  # 5 rows of music, 3 characters
    alignment[0, 0] = alignment[4, 2] = 1.0
    pixels, chunks = read_png(alignment_picture(alignment))
    assert pixels.shape == (3, 5)
    assert pixels[0, 0] == pixels[2, 4] == 255 and np.count_nonzero(pixels) == 2
    assert chunks[b"PLTE"] == bytes(INK) * 256 and chunks[b"tRNS"] == bytes(range(256))


def test_more_attention_is_stronger() -> None:
    pixels, _ = read_png(alignment_picture(np.array([[0.0, 0.1, 0.2, 0.4, 0.8]])))
    assert (np.diff(pixels[:, 0].astype(int)) > 0).all()


def test_long_alignments_are_reduced_and_keep_their_ridge() -> None:
    rows, characters = 5000, 700
    alignment = np.zeros((rows, characters))
    alignment[np.arange(rows), np.arange(rows) * characters // rows] = 1.0
    pixels, _ = read_png(alignment_picture(alignment, width=200, height=100))
    assert pixels.shape == (100, 200)
    assert (pixels.max(axis=0) == 255).all() and (pixels.max(axis=1) == 255).all()
    assert np.abs(pixels.argmax(axis=0) - np.arange(200) / 2).max() <= 1


def test_an_empty_alignment_is_blank() -> None:
    assert not read_png(alignment_picture(np.zeros((4, 4))))[0].any()


@pytest.mark.parametrize("length", [1, 7, BUCKETS, 12345])
def test_waveform_stays_in_its_box_and_closes(length: int) -> None:
    samples = np.random.default_rng(0).standard_normal(length)
    path = waveform_path(samples)
    assert re.fullmatch(r"M\d+ \d+(L\d+ \d+)+Z", path)
    points = np.array([point.split() for point in path[1:-1].split("L")], int)
    assert points[:, 0].min() == 0 and points[:, 0].max() == BUCKETS
    assert points[:, 1].min() >= 2 and points[:, 1].max() <= 198
    assert points[:, 1].min() == 2 or points[:, 1].max() == 198  # scaled to its peak


def test_waveform_shows_where_it_is_loud() -> None:
    samples = np.zeros(10 * BUCKETS)
    samples[5 * BUCKETS] = -0.5
    points = np.array([point.split() for point in waveform_path(samples)[1:-1].split("L")], int)
    loud = points[(points[:, 1] < 99) | (points[:, 1] > 101)]
    assert loud.tolist() == [[BUCKETS // 2, 198]]


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(50)])
def test_silence_is_a_line(samples: np.ndarray) -> None:
    assert set(re.findall(r"\d+", waveform_path(samples))) >= {"0", "99", str(BUCKETS), "101"}
