"""One open audio file that gives any stretch of its samples, exact to the sample.

`io.py` opens files through this. Change here how FFmpeg's decoders are driven: where they are entered, what damaged
packets mean, and how frames become arrays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from jukebox.utils.errors import UserError

PREROLL = 0.5  # seconds decoded before the first wanted sample after a seek, so that codecs have settled
GAP = 0.05  # seconds; time stamps that go on later than this after a frame mean that something is missing between
MAX_BAD = 0.1  # share of packets that may be damaged before a file counts as undecodable


class AudioError(UserError):
    """A file that cannot be read as audio; the message names it."""


class AudioReader:
    """An open audio file that gives samples [start, stop) at its own rate, exact as if decoded from the beginning."""

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self.file = os.fspath(file)
        self._open()

    def _open(self) -> None:
        self.container = open_container(self.file)
        self.stream = self.container.streams.best("audio")
        if self.stream is None:
            self.container.close()
            raise AudioError(f"{self.file} has no audio in it")
        self._bad = self._packets = 0
        try:
            first = next(self._frames(), None)
        except BaseException:
            self.container.close()
            raise
        if first is None:
            self.container.close()
            raise AudioError(f"cannot decode {self.file}: there are no samples in it")
        self._first = first
        self.rate = first.sample_rate
        # Where every sample has its own time stamp, a frame's place in the file is known after a seek.
        self._exact = first.pts is not None and (Fraction(1, self.rate) / self.stream.time_base).denominator == 1
        self._doubtful = (
            self.stream.codec_context.name == "vorbis"
        )  # stamps single frames wrongly: believe two that agree
        # What the header says; 0 where it says nothing.
        self._length = round((self.stream.duration or 0) * self.stream.time_base * self.rate)
        # In MP4 files, what follows is the encoder's padding.
        self._limit = self._length if "mp4" in self.container.format.name and self._length else None

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def read(self, start: int, stop: int | None, approx: bool = False) -> np.ndarray:
        """float32 [1 or 2, at most stop - start]; one call for each opened file."""
        if self._limit is not None:
            stop = self._limit if stop is None else min(stop, self._limit)
        preroll = 0 if approx else round(PREROLL * self.rate)
        if self._exact and start - preroll > self.rate:
            x = self._read_from(self._seek(start - preroll), start, stop, approx)
            if x is not None:
                return x
            self.container.close()  # the file could not be entered there: decode it from its beginning
            self._open()
        x = self._read_from(self._frames(self._first), start, stop, approx=False)
        return np.zeros((1, 0), np.float32) if x is None else x

    def _seek(self, sample: int) -> Iterator[Any]:
        """Frames from the last entry point before a sample on; none where the file has no way in."""
        import av

        stamp = self._first.pts + int(Fraction(sample, self.rate) / self.stream.time_base)
        try:
            self.container.seek(stamp, stream=self.stream, backward=True)
        except av.error.FFmpegError:
            return iter(())
        return self._frames()

    def _place(self, frame: Any) -> int | None:
        """Index of a frame's first sample, counted from the first sample of the file."""
        if not self._exact or frame.pts is None:
            return None
        return round((frame.pts - self._first.pts) * self.stream.time_base * self.rate)

    def _read_from(self, frames: Iterator[Any], start: int, stop: int | None, approx: bool) -> np.ndarray | None:
        """Collects [start, stop) from frames; None where the first frame's place is unknown or behind the start."""
        parts: list[np.ndarray] = []
        here = -1  # place of the next sample
        expected: int | None = None  # by the stamp of the frame before
        for frame in frames:
            place = 0 if frame is self._first else self._place(frame)
            if here < 0:
                if frame is self._first or approx:
                    here = start if approx else 0
                elif place is None or place > start:
                    return None
                elif self._doubtful and place != expected:
                    expected = place + frame.samples
                    continue
                else:
                    here = place
            elif place is not None and GAP * self.rate < place - here <= self._length - here:  # something is missing
                parts.append(np.zeros((1, max(0, place - max(here, start))), np.float32))
                here = place
            end = here + frame.samples
            if end > start:
                cut = slice(max(0, start - here), None if stop is None else max(0, stop - here))
                parts.append(_samples(frame)[:, cut])
            here = end
            if stop is not None and here >= stop:
                break
        if here < 0:
            return None
        if not parts:
            return np.zeros((1, 0), np.float32)
        n_channels = max(part.shape[0] for part in parts)  # zeros of a gap are one channel
        return np.concatenate([np.broadcast_to(part, (n_channels, part.shape[1])) for part in parts], axis=1)

    def _frames(self, first: Any = None) -> Iterator[Any]:
        """Decoded frames from where the file stands; damaged packets are left out up to a share of all."""
        import av

        if first is not None:
            yield first
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                self._packets += 1
                frames = packet.decode()
            except av.error.FFmpegError as error:
                self._bad += 1
                if self._bad > max(10, MAX_BAD * self._packets):
                    raise AudioError(f"cannot decode {self.file}: {_reason(error)}") from error
                continue
            yield from frames


def open_container(file: str) -> Any:
    """FFmpeg's container of a file.

    Raises:
        AudioError: it cannot be opened.
    """
    import av

    # FFmpeg looks through megabytes of a WAV for disguised codecs, which takes longer than decoding a chunk.
    options = {"probesize": "32768"} if file.lower().endswith(".wav") else {}
    try:
        return av.open(file, options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise AudioError(f"cannot open {file}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _samples(frame: Any) -> np.ndarray:
    """float32 [1 or 2, samples] of a decoded frame, whatever its sample format; more channels are mixed to two."""
    if len(frame.layout.channels) > 2:
        return _to_stereo(frame)
    x = frame.to_ndarray()
    if not frame.format.is_planar:
        x = x.reshape(-1, len(frame.layout.channels)).T
    if x.dtype == np.uint8:
        return (x.astype(np.float32) - 128) / 128
    if x.dtype.kind == "i":
        return x.astype(np.float32) / np.float32(2.0 ** (8 * x.dtype.itemsize - 1))
    return x.astype(np.float32, copy=False)


def _to_stereo(frame: Any) -> np.ndarray:
    import av

    converter = av.AudioResampler(format="fltp", layout="stereo", rate=frame.sample_rate)
    parts = [part.to_ndarray() for part in [*converter.resample(frame), *converter.resample(None)]]
    return np.concatenate(parts, axis=1)
