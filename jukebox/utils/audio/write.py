"""Audio files out: WAV, Ogg Vorbis, FLAC, MP3, M4A and Opus, atomically, with tags.

Arrays are [T, channels] or [T], float in [-1, 1]. Change here how files are encoded.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from jukebox.utils.audio import id3
from jukebox.utils.audio.reader import PIECE, Resampler
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write

# extension -> (FFmpeg's container, encoder); the others are soundfile's.
_ENCODERS = {
    "mp3": ("mp3", "libmp3lame"),
    "flac": ("flac", "flac"),
    "m4a": ("ipod", "aac"),
    "opus": ("ogg", "libopus"),
}
WRITABLE = ("wav", "ogg", *_ENCODERS)
SPOOLED = 1 << 25  # bytes of an MP3 file, whose tag comes first, that stay in memory
# Of what encoders know, what players like: MP3 below 32 kHz is a format of its own, with half the bits.
_RATES = {"libmp3lame": (44100, 48000)}
_BIT_RATES = {"libmp3lame": 192_000}
_SOUNDFILE_TAGS = ("title", "artist", "album", "date", "genre", "tracknumber", "copyright")


def write_audio(
    path: str | os.PathLike[str],
    x: Any,
    sr: int,
    tags: Mapping[str, str] | None = None,
    bit_rate: int | None = None,
) -> None:
    """Writes one audio file atomically; its format follows the extension.

    WAV is 16-bit and written by soundfile, Ogg Vorbis too; FLAC (16-bit), MP3, M4A (AAC) and Opus by FFmpeg. Samples
    outside [-1, 1] are clipped.

    Args:
        path: ends in .wav, .ogg, .flac, .mp3, .m4a or .opus.
        x: float [T, channels] or [T], array or tensor; 1 or 2 channels.
        sr: rate in Hz. MP3 (44.1 or 48 kHz), M4A and Opus have a few rates; others become the next higher one.
        tags: name -> text, for example artist, genre, lyrics. WAV and Ogg keep unusual ones in the comment.
        bit_rate: bits per second of the lossy formats of FFmpeg; None: 192,000 of MP3, else the encoder's default.

    Raises:
        UserError: another extension, samples that are not finite, or the folder cannot be written.
    """
    extension = os.path.splitext(os.fspath(path))[1].lower().lstrip(".")
    if extension not in WRITABLE:
        raise UserError(f"cannot write {os.fspath(path)}: use one of the endings .{', .'.join(WRITABLE)}")
    x = x if hasattr(x, "shape") else np.asarray(x)
    channels = x.shape[1] if len(x.shape) == 2 else 1
    if len(x.shape) not in (1, 2) or channels not in (1, 2):
        raise ValueError(f"audio of shape {list(x.shape)}: expected [T], [T, 1] or [T, 2]")
    blocks = _blocks(os.fspath(path), x, channels)
    tags = {key: str(value).encode(errors="replace").decode() for key, value in (tags or {}).items() if str(value)}
    with atomic_write(path) as file:
        if extension == "mp3":
            with tempfile.SpooledTemporaryFile(SPOOLED, dir=os.path.dirname(os.path.abspath(path))) as stream:
                _encode(stream, blocks, channels, int(sr), *_ENCODERS[extension], {}, bit_rate, {"id3v2_version": "0"})
                file.write(id3.tag(tags))
                stream.seek(0)
                shutil.copyfileobj(stream, file)
        elif extension in _ENCODERS:
            _encode(file, blocks, channels, int(sr), *_ENCODERS[extension], tags, bit_rate)
        else:
            _write_soundfile(file, blocks, channels, int(sr), extension, tags)


def _blocks(path: str, x: Any, channels: int) -> Iterator[np.ndarray]:
    """Pieces [n, channels] of what is sliced like an array [T] or [T, channels], clipped.

    Raises:
        UserError: samples are not finite.
    """
    for start in range(0, len(x), PIECE):
        block = x[start : start + PIECE]
        block = np.asarray(block.detach().cpu() if hasattr(block, "detach") else block, dtype=np.float32)
        if not np.isfinite(block.sum(dtype=np.float64)):
            raise UserError(
                f"cannot write {path}: the audio is not finite (NaN or infinite); the weights are damaged "
                "or from a run that diverged"
            )
        yield np.clip(block, -1.0, 1.0).reshape(-1, channels)


def _write_soundfile(
    file: Any, blocks: Iterator[np.ndarray], channels: int, sr: int, extension: str, tags: dict[str, str]
) -> None:
    import soundfile

    kind = dict(format="WAV", subtype="PCM_16") if extension == "wav" else dict(format="OGG", subtype="VORBIS")
    with soundfile.SoundFile(file, "w", sr, channels, **kind) as out:
        rest = {key: text for key, text in tags.items() if key not in _SOUNDFILE_TAGS}
        comment = "\n".join(text if key == "comment" else f"{key}: {text}" for key, text in rest.items())
        for key, text in {**{k: t for k, t in tags.items() if k not in rest}, "comment": comment}.items():
            if text:
                setattr(out, key, text)
        for block in blocks:
            for start in range(0, len(block), 1 << 16):  # the Vorbis encoder overflows its stack on a whole song
                out.write(block[start : start + (1 << 16)])


def _encode(
    file: Any,
    blocks: Iterator[np.ndarray],
    channels: int,
    sr: int,
    container: str,
    encoder: str,
    tags: dict[str, str],
    bit_rate: int | None,
    options: dict[str, str] | None = None,
) -> None:
    import av

    rates = sorted(_RATES.get(encoder) or av.Codec(encoder, "w").audio_rates or [sr])
    rate = next((r for r in rates if r >= sr), rates[-1])
    layout = "mono" if channels == 1 else "stereo"
    with av.open(file, "w", format=container, options=options or {}) as out:
        out.metadata.update(tags)
        stream: Any = out.add_stream(encoder, rate=rate, layout=layout)
        if bits := bit_rate or _BIT_RATES.get(encoder):
            stream.bit_rate = bits
        # Encoders want their own sample format and frames of their own size; the resampler does both.
        converter = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=_frame_size(stream))
        for piece in _pieces(_at_rate(blocks, channels, sr, rate), layout, rate, converter):
            for packet in stream.encode(piece):
                out.mux(packet)


def _at_rate(blocks: Iterator[np.ndarray], channels: int, from_rate: int, to_rate: int) -> Iterator[np.ndarray]:
    """Blocks [n, channels] as pieces [channels, n] at another rate, as `resample_audio` gives them at once."""
    if from_rate == to_rate:
        yield from (block.T for block in blocks)
        return
    resampler, taken, given = Resampler(from_rate, to_rate, channels), 0, 0
    for block in blocks:
        taken += len(block)
        for piece in resampler.add(block.T):
            given += piece.shape[1]
            yield piece
    if not taken:
        return
    most = math.inf if taken >= resampler.shortest else math.ceil(taken * to_rate / from_rate)
    for piece in resampler.finish():
        piece = piece[:, : None if most == math.inf else max(0, int(most) - given)]
        given += piece.shape[1]
        yield piece


def _pieces(samples: Iterator[np.ndarray], layout: str, rate: int, converter: Any) -> Iterator[Any]:
    """Frames for an encoder, and None as the last one: one frame of hours would overflow FFmpeg's sizes."""
    import av

    here = 0
    for piece in samples:
        if not piece.shape[1]:
            continue
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, here, Fraction(1, rate)
        here += piece.shape[1]
        yield from converter.resample(frame)
    yield from converter.resample(None)
    yield None


def _frame_size(stream: Any) -> int | None:
    """Samples per frame that an encoder wants, once it is open."""
    stream.codec_context.open(strict=False)
    return stream.codec_context.frame_size or None


def save_wav(fname: str | os.PathLike[str], aud: Any, sr: int) -> None:
    """Writes a batch as WAV files `fname/item_0.wav`, `item_1.wav`, ..., or one item as the file `fname`.

    Args:
        fname: a folder for a batch [N, T, C]; a path that ends in .wav for one item [T, C] or [T].
        aud: float audio, array or tensor, clipped to [-1, 1].
        sr: rate in Hz.
    """
    x = aud.detach().cpu().numpy() if hasattr(aud, "detach") else np.asarray(aud)
    if x.ndim < 3:
        write_audio(fname, x, sr)
        return
    for i, item in enumerate(x):
        write_audio(os.path.join(os.fspath(fname), f"item_{i}.wav"), item, sr)
