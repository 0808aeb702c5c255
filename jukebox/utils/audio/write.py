"""Audio files out: WAV, Ogg Vorbis, FLAC, MP3, M4A and Opus, atomically, with tags.

Arrays are [T, channels] or [T], float in [-1, 1]. Change here how files are encoded.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from jukebox.utils.audio import id3
from jukebox.utils.audio.reader import PIECE, resample_audio
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
    x = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float32)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[1] not in (1, 2):
        raise ValueError(f"audio of shape {list(x.shape)}: expected [T], [T, 1] or [T, 2]")
    if not np.isfinite(x.sum(dtype=np.float64)):
        raise UserError(
            f"cannot write {os.fspath(path)}: the audio is not finite (NaN or infinite); the weights are damaged "
            "or from a run that diverged"
        )
    x = np.clip(x, -1.0, 1.0)
    tags = {key: str(value).encode(errors="replace").decode() for key, value in (tags or {}).items() if str(value)}
    with atomic_write(path) as file:
        if extension == "mp3":
            stream = io.BytesIO()
            _encode(stream, x, int(sr), *_ENCODERS[extension], {}, bit_rate, {"id3v2_version": "0"})
            file.write(id3.tag(tags) + stream.getvalue())
        elif extension in _ENCODERS:
            _encode(file, x, int(sr), *_ENCODERS[extension], tags, bit_rate)
        else:
            _write_soundfile(file, x, int(sr), extension, tags)


def _write_soundfile(file: Any, x: np.ndarray, sr: int, extension: str, tags: dict[str, str]) -> None:
    import soundfile

    kind = dict(format="WAV", subtype="PCM_16") if extension == "wav" else dict(format="OGG", subtype="VORBIS")
    with soundfile.SoundFile(file, "w", sr, x.shape[1], **kind) as out:
        rest = {key: text for key, text in tags.items() if key not in _SOUNDFILE_TAGS}
        comment = "\n".join(text if key == "comment" else f"{key}: {text}" for key, text in rest.items())
        for key, text in {**{k: t for k, t in tags.items() if k not in rest}, "comment": comment}.items():
            if text:
                setattr(out, key, text)
        for start in range(0, len(x), 1 << 16):  # the Vorbis encoder overflows its stack on a whole song
            out.write(x[start : start + (1 << 16)])


def _encode(
    file: Any,
    x: np.ndarray,
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
    samples = resample_audio(np.ascontiguousarray(x.T), sr, rate)
    layout = "mono" if x.shape[1] == 1 else "stereo"
    with av.open(file, "w", format=container, options=options or {}) as out:
        out.metadata.update(tags)
        stream: Any = out.add_stream(encoder, rate=rate, layout=layout)
        if bits := bit_rate or _BIT_RATES.get(encoder):
            stream.bit_rate = bits
        # Encoders want their own sample format and frames of their own size; the resampler does both.
        converter = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=_frame_size(stream))
        for piece in _pieces(samples, layout, rate, converter):
            for packet in stream.encode(piece):
                out.mux(packet)


def _pieces(samples: np.ndarray, layout: str, rate: int, converter: Any) -> Iterator[Any]:
    """Frames for an encoder, and None as the last one: one frame of hours would overflow FFmpeg's sizes."""
    import av

    for start in range(0, samples.shape[1], PIECE):
        piece = np.ascontiguousarray(samples[:, start : start + PIECE])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
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
