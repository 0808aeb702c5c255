"""Audio files in and out.

Reading goes through PyAV (FFmpeg): any common format, any rate, sample-exact from any offset, as if the whole file had
been decoded and resampled and the part cut out. Writing is `write_audio`. Arrays of one file are [channels, T] when
read, as decoders give them, and [T, channels] when written; float32 in [-1, 1]. Change here how files are decoded and
encoded.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from jukebox.utils import id3
from jukebox.utils.audio_reader import AudioError, AudioReader, open_container
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write

EXTENSIONS = ("wav", "mp3", "m4a", "aac", "mp4", "opus", "ogg", "oga", "flac", "aif", "aiff", "wma", "webm")
FILTER_REACH = 64  # samples (of the slower rate) around the wanted part that the resampling filter may look at
LAST_MOMENT = 0.25  # seconds before the end in which a whole file still has samples
PADDING = 0.3  # seconds that an encoder may have put before and behind the sound, at the lowest rates


# ------------------------------------------------------------------------------------------------------- reading


def load_audio(
    file: str | os.PathLike[str],
    sr: int,
    offset: float = 0,
    duration: float | None = None,
    resample: bool = True,
    approx: bool = False,
    time_base: str = "samples",
    check_duration: bool = True,
    channels: int = 2,
) -> tuple[np.ndarray, int]:
    """Reads a part of an audio file.

    Args:
        file: of any format that FFmpeg decodes.
        sr: rate to resample to, in Hz.
        offset: where to start, in samples of the returned rate.
        duration: how much to return, in the same unit; None: up to the end.
        resample: False keeps the file's own rate.
        approx: start at the packet nearest before the offset instead of the very sample: up to 0.1 s off (Ogg: 1 s),
            and no time is spent on letting codecs settle.
        time_base: "samples", or "sec" for an offset and a duration in seconds.
        check_duration: refuse an offset at or behind the end of the file; False returns silence there.
        channels: 1 mixes all channels evenly, 2 doubles a mono file.

    Returns:
        float32 [channels, duration] and its rate. Behind the end of the file there are zeros, and so where it has
        samples that are no finite numbers, as files of floats may.

    Raises:
        AudioError: the file cannot be opened or decoded, has no audio, or ends before the offset.
    """
    if time_base not in ("samples", "sec"):
        raise ValueError(f"time_base={time_base!r}: use 'samples' or 'sec'")
    with AudioReader(file) as reader:
        rate = int(sr) if resample else reader.rate
        unit = rate if time_base == "sec" else 1
        first = int(round(offset * unit)) if unit > 1 else int(offset)
        wanted = None if duration is None else int(round(duration * unit)) if unit > 1 else int(duration)
        if first < 0 or (wanted is not None and wanted < 0):
            raise ValueError(f"offset {offset} and duration {duration} must not be negative")
        x = _to_channels(_read_at_rate(reader, rate, first, wanted, approx), channels)
    if check_duration and x.shape[1] == 0 and wanted != 0:
        raise AudioError(f"{os.fspath(file)} ends before {first / rate:.2f} s, from where it was to be read")
    if wanted is not None and x.shape[1] < wanted:
        x = np.pad(x, ((0, 0), (0, wanted - x.shape[1])))
    return np.ascontiguousarray(x, dtype=np.float32), rate


def _read_at_rate(reader: AudioReader, rate: int, first: int, wanted: int | None, approx: bool) -> np.ndarray:
    """Samples [first, first + wanted) of the file resampled to `rate`, fewer where it ends.

    The resampler starts on a source sample that falls on a sample of the result, and early enough for its filter, so
    the result is the same as if it had run from the start of the file.
    """
    ratio = Fraction(reader.rate, rate)  # source samples per sample of the result
    if ratio == 1:
        return _finite(reader.read(first, None if wanted is None else first + wanted, approx), reader)
    reach = FILTER_REACH * max(1, math.ceil(ratio))
    steps = max(0, (int(first * ratio) - reach) // ratio.numerator)
    start, stop = steps * ratio.numerator, None if wanted is None else math.ceil((first + wanted) * ratio) + reach
    x = _finite(reader.read(start, stop, approx), reader)
    if x.shape[1] == 0:
        return x
    skip = first - steps * ratio.denominator
    ends = math.ceil(x.shape[1] / ratio)  # the flushed filter may give a few samples more than there was sound
    y = resample_audio(x, reader.rate, rate)[:, :ends]
    return y[:, skip : None if wanted is None else skip + wanted]


def _finite(x: np.ndarray, reader: AudioReader) -> np.ndarray:
    """x as it is; one sample that is no number would spread over all it is mixed or filtered with, and into weights.

    Raises:
        AudioError: samples are NaN or infinite.
    """
    if not np.isfinite(x.sum(dtype=np.float64)):  # float32 numbers cannot overflow this sum
        bad = int((~np.isfinite(x)).sum())
        raise AudioError(f"cannot use {reader.file}: {bad} of its samples are no numbers (NaN or infinite)")
    return x


def resample_audio(x: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resamples [channels, T], one or two channels, with FFmpeg's resampler; sample 0 stays at time 0."""
    import av

    if from_rate == to_rate or x.shape[1] == 0:
        return x
    layout = "mono" if x.shape[0] == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(x, dtype=np.float32), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = from_rate, 0
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=to_rate)
    parts = [out.to_ndarray() for out in [*resampler.resample(frame), *resampler.resample(None)]]
    return np.concatenate([x[:, :0], *parts], axis=1)  # a few samples may give none


def _to_channels(x: np.ndarray, channels: int) -> np.ndarray:
    if channels not in (1, 2):
        raise UserError(f"channels={channels}: use 1 or 2")
    if x.shape[0] == channels:
        return x
    return x.mean(axis=0, keepdims=True) if channels == 1 else np.repeat(x, 2, axis=0)


# ---------------------------------------------------------------------------------------------------- about files


def probe_audio(file: str | os.PathLike[str]) -> tuple[float, dict[str, str]]:
    """The duration of a file in seconds, and its tags with names in lower case.

    Only its first and last moments are decoded. What the header says is not believed where the file breaks off earlier.
    The duration of MP3 files includes up to 0.05 s of padding where the encoder did not say how much there is.

    Raises:
        AudioError: the file cannot be opened or decoded, or has no audio.
    """
    file = os.fspath(file)
    with AudioReader(file) as reader:
        container, stream = reader.container, reader.stream
        tags = {key.lower(): str(value) for key, value in {**stream.metadata, **container.metadata}.items()}
        seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
        if stream.codec_context.name == "opus" and container.format.name == "ogg" and stream.duration:
            seconds -= stream.codec_context.delay / 48000  # samples before time 0, never returned
        guessed = container.format.name in ("mp3", "aac") or seconds <= 0
        if guessed or reader.read(max(0, int((seconds - LAST_MOMENT) * reader.rate)), None).shape[1] == 0:
            counted = _count_packets(file)
            knows_padding = container.format.name != "aac"  # as an MP3's header does; without one it was a guess
            if not knows_padding or abs(counted - seconds) > PADDING:
                seconds = counted
    if seconds <= 0:
        raise AudioError(f"cannot decode {file}: there are no samples in it")
    return seconds, tags


def _count_packets(file: str) -> float:
    """Seconds of all packets together; a file that breaks off is as long as it goes."""
    import av

    with contextlib.closing(open_container(file)) as container:
        stream = container.streams.best("audio")
        total = 0
        with contextlib.suppress(av.error.FFmpegError):
            for packet in container.demux(stream):
                total += packet.duration or 0
        return float(total * stream.time_base)


def get_duration_sec(file: str | os.PathLike[str], cache: bool = True) -> float:
    """Duration of an audio file in seconds.

    Args:
        cache: look it up in, and add it to, the index of its folder (see `audio_index.py`).

    Raises:
        AudioError: the file cannot be opened, or has no audio.
    """
    if not cache:
        return probe_audio(file)[0]
    from jukebox.utils.audio_index import AudioIndex

    folder, name = os.path.split(os.path.abspath(os.fspath(file)))
    entry = AudioIndex(folder).look_up([name])[name]
    if entry.error:
        raise AudioError(entry.error)
    return entry.seconds


# ------------------------------------------------------------------------------------------------------- writing

# extension -> (FFmpeg's container, encoder); the others are soundfile's.
_ENCODERS = {
    "mp3": ("mp3", "libmp3lame"),
    "flac": ("flac", "flac"),
    "m4a": ("ipod", "aac"),
    "opus": ("ogg", "libopus"),
}
WRITABLE = ("wav", "ogg", *_ENCODERS)
_SOUNDFILE_TAGS = ("title", "artist", "album", "date", "genre", "tracknumber", "copyright")


def write_audio(
    path: str | os.PathLike[str],
    x: Any,
    sr: int,
    tags: Mapping[str, str] | None = None,
    bit_rate: int | None = None,
) -> None:
    """Writes one audio file, whole or not at all; its format follows the extension.

    WAV is 16-bit and written by soundfile, Ogg Vorbis too; FLAC (16-bit), MP3, M4A (AAC) and Opus by FFmpeg. Samples
    outside [-1, 1] are clipped.

    Args:
        path: ends in .wav, .ogg, .flac, .mp3, .m4a or .opus.
        x: float [T, channels] or [T], array or tensor; 1 or 2 channels.
        sr: rate in Hz. MP3, M4A and Opus know a few rates; others are resampled to the next higher one.
        tags: name -> text, for example artist, genre, lyrics. WAV and Ogg keep unusual ones in the comment.
        bit_rate: bits per second of the lossy formats of FFmpeg; None: the encoder's default.

    Raises:
        UserError: another extension, or the folder cannot be written.
    """
    extension = os.path.splitext(os.fspath(path))[1].lower().lstrip(".")
    if extension not in WRITABLE:
        raise UserError(f"cannot write {os.fspath(path)}: use one of the endings .{', .'.join(WRITABLE)}")
    x = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float32)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[1] not in (1, 2):
        raise ValueError(f"audio of shape {list(x.shape)}: expected [T], [T, 1] or [T, 2]")
    x = np.clip(np.nan_to_num(x), -1.0, 1.0)
    tags = {key: str(value) for key, value in (tags or {}).items() if str(value)}
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

    rates = sorted(av.Codec(encoder, "w").audio_rates or [sr])
    rate = next((r for r in rates if r >= sr), rates[-1])
    samples = resample_audio(np.ascontiguousarray(x.T), sr, rate)
    layout = "mono" if x.shape[1] == 1 else "stereo"
    with av.open(file, "w", format=container, options=options or {}) as out:
        out.metadata.update(tags)
        stream: Any = out.add_stream(encoder, rate=rate, layout=layout)
        if bit_rate:
            stream.bit_rate = bit_rate
        # Encoders want their own sample format and frames of their own size; the resampler does both.
        converter = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=_frame_size(stream))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for piece in [*converter.resample(frame), *converter.resample(None), None]:
            for packet in stream.encode(piece):
                out.mux(packet)


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
