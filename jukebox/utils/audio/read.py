"""Audio files in: any part of any file, at any rate.

Reading goes through PyAV (FFmpeg): any common format, sample-exact from any offset. The result is as if the whole file
had been decoded and resampled and the part cut out. Arrays are float32 [channels, T] in [-1, 1], as decoders give them.
Change here what is made of a file's samples; decoders are driven in `reader.py`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from jukebox.utils.audio.reader import (
    GAP,
    AudioError,
    AudioReader,
    Cut,
    Parts,
    Resampler,
    named_errors,
    open_container,
)
from jukebox.utils.audio.source import Source, Span, spans
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import DAMAGED, choice
from jukebox.utils.outside import current

if TYPE_CHECKING:  # it needs torch, which takes seconds to import
    from jukebox.utils.audio.spool import Spool

EXTENSIONS: tuple[str, ...] = ("wav", "mp3", "m4a", "aac", "mp4", "opus", "ogg", "oga", "flac", "aif", "aiff", "wma")
EXTENSIONS += ("webm", "wave", "w64", "rf64", "bwf", "aifc", "au", "caf", "mp2", "m4b", "mka", "wv", "ape", "tta")
EXTENSIONS += ("ac3", "spx", "amr", "dsf", "mpc")
FILTER_REACH = 64  # samples (of the slower rate) around the wanted part that the resampling filter may look at
LAST_MOMENT = 0.25  # seconds before the end in which a whole file still has samples
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350, 0, 0, 0)
PADDING = 0.3  # seconds that an encoder may have put before and after the sound, at the lowest rates


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
    mono: bool = False,
    damaged: str = "refuse",
    tell: Callable[[str], None] | None = None,
) -> tuple[np.ndarray, int]:
    """Reads a part of an audio file.

    Args:
        file: of any format that FFmpeg decodes.
        sr: rate to resample to, in Hz.
        offset: where to start, in samples of the returned rate.
        duration: how much to return, in the same unit; None: up to the end.
        resample: False keeps the file's own rate.
        approx: start at the packet nearest before the offset instead of the exact sample: up to 0.1 s off (Ogg: 1 s),
            and no time is spent on letting codecs settle.
        time_base: "samples", or "sec" for an offset and a duration in seconds.
        check_duration: refuse an offset at or after the end of the file; False returns silence there.
        channels: 1 mixes all channels evenly, 2 doubles a mono file; more than two count as their even mean.
        mono: the same as channels=1.
        damaged: "refuse", or "keep" to take a file that cannot be read to its end as far as it goes.
        tell: called with a line for whatever is wrong with what was read: damaged packets, or, a `Cut`, a missing end.

    Returns:
        float32 [channels, duration] and its rate. After the end of the file there are zeros, and so where it has
        samples that are not finite, as files of floats may.

    Raises:
        AudioError: the file cannot be opened or decoded, has no audio, or ends before the offset.
    """
    if time_base not in ("samples", "sec"):
        raise ValueError(f"time_base={time_base!r}: use 'samples' or 'sec'")
    if channels not in (1, 2):
        raise UserError(f"channels={channels}: use 1 or 2")
    choice("damaged", damaged, DAMAGED)
    if offset < 0 or (duration is not None and duration < 0):
        raise ValueError(f"offset {offset} and duration {duration} must not be negative")
    name = os.fspath(file)
    with named_errors(name):
        links = spans(name)
        rate = int(sr) if resample else _rate_of(name, links[0])
        unit = rate if time_base == "sec" else 1
        first = int(round(offset * unit)) if unit > 1 else int(offset)
        wanted = None if duration is None else int(round(duration * unit)) if unit > 1 else int(duration)
        x, notes = _read_links(name, links, rate, first, wanted, approx, damaged, 1 if mono else channels)
        x = _to_channels(x, 1 if mono else channels)
    if check_duration and wanted != 0:
        _check_begin(name, first, rate, x.shape[1])
    if wanted is not None and x.shape[1] < wanted:
        x = np.pad(x, ((0, 0), (0, wanted - x.shape[1])))
    for note in notes if tell is not None else ():
        tell(note)  # type: ignore[misc]
    return np.ascontiguousarray(x, dtype=np.float32), rate


def _check_begin(name: str, first: int, rate: int, samples: int) -> None:
    if not samples:
        raise AudioError(f"{name} ends before {first / rate:.2f} s, from where it was to be read")


def read_into(
    spool: Spool,
    file: str | os.PathLike[str],
    sr: int,
    offset: int = 0,
    duration: int | None = None,
    check_duration: bool = True,
    damaged: str = "refuse",
    tell: Callable[[str], None] | None = None,
) -> None:
    """Reads one channel of a file to an empty spool, as `read_samples` does to an array, in bounded memory."""
    if current("jukebox.utils.audio_utils", load_audio) is not load_audio:
        spool.append(read_samples(file, sr, offset, duration, 1, check_duration, damaged, tell)[0])
        return
    name = os.fspath(file)
    with named_errors(name):
        _, notes = _read_links(name, spans(name), sr, offset, duration, False, damaged, 1, spool)
    if check_duration and duration != 0:
        _check_begin(name, offset, sr, len(spool))
    if duration is not None:
        spool.resize(duration)
    for note in notes if tell is not None else ():
        tell(note)  # type: ignore[misc]


def read_samples(
    file: str | os.PathLike[str],
    sr: int,
    offset: int = 0,
    duration: int | None = None,
    channels: int = 2,
    check_duration: bool = True,
    damaged: str = "refuse",
    tell: Callable[[str], None] | None = None,
) -> np.ndarray:
    """What `load_audio` reads, float32 [channels, T], or what a function set as `audio_utils.load_audio` reads.

    Such a function is called with `file`, and `sr`, `offset`, `duration` (in samples) and `mono` by name. It gives the
    samples, [channels, T] or [T], with or without a rate after them.
    """
    load = current("jukebox.utils.audio_utils", load_audio)
    if load is load_audio:
        return load_audio(
            file,
            sr,
            offset,
            duration,
            check_duration=check_duration,
            channels=channels,
            damaged=damaged,
            tell=tell,
        )[0]
    if duration is None:
        duration = max(0, int(probe_audio(file)[0] * sr) - offset)
    found = load(os.fspath(file), sr=sr, offset=offset, duration=duration, mono=channels == 1)
    x = np.atleast_2d(np.asarray(found[0] if isinstance(found, tuple) else found, dtype=np.float32))
    return _to_channels(x, channels)


def _rate_of(file: str, span: Span) -> int:
    with AudioReader(file, span) as reader:
        return reader.rate


def _read_links(
    file: str,
    links: tuple[Span, ...],
    rate: int,
    first: int,
    wanted: int | None,
    approx: bool,
    damaged: str,
    channels: int,
    spool: Spool | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Samples [first, first + wanted) of the streams of a file one after the other, and notes.

    With a spool the samples, of one channel, go there and not into the array.
    """
    parts, notes = Parts(), list[str]()
    begin = 0  # of the stream, in samples of the result
    for i, span in enumerate(links):
        if wanted is not None and begin >= first + wanted and i:
            break
        with AudioReader(file, span, damaged) as reader:
            length = math.inf if i + 1 == len(links) else round(about_link(file, span).seconds * rate)
            if begin + length > first:
                skip = max(0, first - begin)
                want = None if wanted is None else first + wanted - begin - skip
                there = 0 if spool is None else len(spool)
                x = _read_at_rate(reader, rate, skip, want, approx, channels, spool)
                if length != math.inf:  # the next begins where this one's time ends
                    have = int(length) - skip if want is None else min(want, int(length) - skip)
                    if spool is None:
                        x = np.pad(x[:, :have], ((0, 0), (0, max(0, have - x.shape[1]))))
                    else:
                        spool.resize(there + have)
                if len(links) == 1:
                    return x, reader.notes
                parts.append(x)
            notes += reader.notes
        begin += 0 if length == math.inf else int(length)
    return parts.join(), notes


def _read_at_rate(
    reader: AudioReader,
    rate: int,
    first: int,
    wanted: int | None,
    approx: bool,
    channels: int,
    spool: Spool | None = None,
) -> np.ndarray:
    """Samples [first, first + wanted) of the file resampled to `rate`, fewer if it ends; to a spool if one is given.

    The resampler starts on a source sample that falls on a sample of the result, and early enough for its filter. So
    the result is the same as from the start of the file. What is decoded is resampled, cut and mixed at once, so that
    only the result is held.
    """
    ratio = Fraction(reader.rate, rate)  # source samples per sample of the result
    reach = FILTER_REACH * max(1, math.ceil(ratio)) if ratio != 1 else 0
    steps = max(0, (int(first * ratio) - reach) // ratio.numerator)
    start, stop = steps * ratio.numerator, None if wanted is None else math.ceil((first + wanted) * ratio) + reach
    skip = first - steps * ratio.denominator
    there = 0 if spool is None else len(spool)

    def make() -> _Result:
        if spool is not None:
            spool.resize(there)  # if the file is entered a second time
        return _Result(reader, rate, skip, wanted, channels, spool)

    return reader.read(start, stop, approx, make)


class _Result(Parts):
    """Takes what a reader decodes, and keeps samples [skip, skip + wanted) at a rate, mixed if channels is 1.

    With a spool they go there, and none is joined.
    """

    def __init__(
        self, reader: AudioReader, rate: int, skip: int, wanted: int | None, channels: int, spool: Spool | None
    ) -> None:
        super().__init__()
        self._reader, self._rate, self._channels, self._spool = reader, rate, channels, spool
        self._skip, self._stop = skip, math.inf if wanted is None else skip + wanted
        self._resampler: Resampler | None = None
        self._taken = self._here = self._bad = 0  # samples of the file, of the result, and that are not finite
        self._widest = 1

    def append(self, x: np.ndarray) -> None:
        # One sample that is not finite would spread over all it is mixed or filtered with, and into weights.
        if not np.isfinite(x.sum(dtype=np.float64)):  # float32 numbers cannot overflow this sum
            self._bad += int((~np.isfinite(x)).sum())
        self._taken += x.shape[1]
        self._widest = max(self._widest, x.shape[0])
        if self._reader.rate == self._rate:
            self._keep(x)
            return
        if self._resampler is None:  # two channels if a later frame may have them
            fixed = self._reader.container.format.name in ("wav", "flac", "aiff") and x.shape[0] == 1
            self._resampler = Resampler(self._reader.rate, self._rate, 1 if fixed else 2)
        x = np.broadcast_to(x, (1 if self._resampler.layout == "mono" else 2, x.shape[1]))
        for y in self._resampler.add(x):
            self._keep(y[: self._widest])

    def _keep(self, x: np.ndarray) -> None:
        here, self._here = self._here, self._here + x.shape[1]
        if self._here > self._skip and here < self._stop:
            x = x[:, max(0, self._skip - here) : None if self._here <= self._stop else int(self._stop) - here]
            if self._spool is None:
                self.parts.append(_to_channels(x, 1) if self._channels == 1 else x.copy())
            else:
                self._spool.append(_to_channels(x, 1)[0])

    def join(self) -> np.ndarray:
        """The wanted samples, fewer if the file ends before.

        Raises:
            AudioError: samples of the file are NaN or infinite.
        """
        if self._bad:
            raise AudioError(
                f"cannot use {self._reader.file}: {self._bad} of its samples are not finite (NaN or infinite)"
            )
        if self._resampler is not None:
            # The flushed filter may give a few samples more than there was sound.
            self._stop = min(self._stop, math.ceil(self._taken / Fraction(self._reader.rate, self._rate)))
            for y in self._resampler.finish():
                self._keep(y[: self._widest])
        return super().join()


def _to_channels(x: np.ndarray, channels: int) -> np.ndarray:
    if x.shape[0] == channels:
        return x
    return x.mean(axis=0, keepdims=True) if channels == 1 else np.repeat(x, 2, axis=0)


def mono(x: Any) -> np.ndarray:
    """Samples [T] or [T, channels], array or tensor, as float32 [T], all channels mixed evenly.

    Raises:
        UserError: another shape, or samples that are not finite numbers.
    """
    x = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float32)
    if x.ndim not in (1, 2) or not np.isfinite(x).all():
        what = "has samples that are not finite" if x.ndim in (1, 2) else f"has the shape {list(x.shape)}"
        raise UserError(f"the audio {what}: give samples [T] or [T, channels] in [-1, 1]")
    return x if x.ndim == 1 else x.mean(axis=1)


# ---------------------------------------------------------------------------------------------------- about files


@dataclass(frozen=True)
class AudioFacts:
    """What is known about a file.

    Attributes:
        seconds: its duration, as far as it can be read.
        tags: with names in lower case.
        cut: if its end is missing, what shows it.
        error: why it is refused unless damaged files are kept.
    """

    seconds: float
    tags: dict[str, str] = field(default_factory=dict)
    cut: str = ""
    error: str = ""


def probe_audio(file: str | os.PathLike[str]) -> tuple[float, dict[str, str]]:
    """The duration of a file in seconds, and its tags with names in lower case; see `about_audio`."""
    facts = about_audio(file)
    return facts.seconds, facts.tags


def about_audio(file: str | os.PathLike[str]) -> AudioFacts:
    """Duration and tags of a file.

    Only its first and last moments are decoded. What the header says is not believed if the file breaks off earlier
    or is longer. The duration of MP3 files includes up to 0.05 s of padding if the encoder did not say how much.

    Raises:
        AudioError: the file cannot be opened or decoded, or has no audio.
    """
    name = os.fspath(file)
    with named_errors(name):
        links = [about_link(name, span) for span in spans(name)]
    seconds = sum(link.seconds for link in links)
    if seconds <= 0:
        raise AudioError(f"cannot decode {name}: there are no samples in it")
    cut = next((link.cut for link in links if link.cut), "")
    return AudioFacts(seconds, links[0].tags, cut, next((link.error for link in links if link.error), ""))


def about_link(file: str, span: Span) -> AudioFacts:
    """The same of one stream of a file; see `about_audio`."""
    with AudioReader(file, span, damaged="keep") as reader:
        container, stream = reader.container, reader.stream
        tags = {key.lower(): str(value) for key, value in {**stream.metadata, **container.metadata}.items()}
        seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
        if stream.codec_context.name == "opus" and container.format.name == "ogg" and stream.duration:
            seconds -= stream.codec_context.delay / 48000  # samples before time 0, never returned
        format = container.format.name
        guessed = format in ("mp3", "aac") or seconds <= 0
        start = max(0, int((seconds - LAST_MOMENT) * reader.rate))
        there = 0 if guessed else reader.read(start, None).shape[1]
        read_to = (start + there) / reader.rate
        if there and abs(read_to - seconds) > GAP:
            seconds = read_to
        elif not there:
            counted, stopped = _count_packets(reader)
            knows_padding = format != "aac"  # as an MP3's header does; without one it was a guess
            if not knows_padding or stopped or abs(counted - seconds) > PADDING:
                seconds = counted
        return AudioFacts(
            seconds, tags, next((note for note in reader.notes if isinstance(note, Cut)), ""), reader.failure
        )


def _count_packets(reader: AudioReader) -> tuple[float, bool]:
    """Seconds of all packets together, and whether the file could not be read on; it is as long as it goes."""
    import av

    total, stopped = Fraction(0), False
    with (
        contextlib.closing(Source(reader.file, reader.span)) as source,
        contextlib.closing(open_container(reader.file, source)) as container,
    ):
        stream = container.streams.best("audio")
        try:
            for packet in container.demux(stream):
                if container.format.name == "aac" and packet.size > 6:  # FFmpeg counts all at the first one's rate
                    head = bytes(memoryview(packet)[:7])
                    rate = AAC_RATES[head[2] >> 2 & 15]
                    total += Fraction(1024 * (head[6] % 4 + 1), rate) if head[0] == 255 and rate else 0
                else:
                    total += (packet.duration or 0) * stream.time_base
        except (av.error.FFmpegError, OSError) as error:
            source.error = source.error or OSError(str(error))
        seconds = float(total)
        if source.error:
            stopped, why = True, source.error.strerror or source.error
            reader.failure = f"cannot decode {reader.file} beyond {seconds:.2f} s: {why}"
            reader.notes = [Cut(f"{reader.file} is used up to {seconds:.2f} s, and cannot be read beyond: {why}")]
    return seconds, stopped
