"""One open audio file that gives any stretch of its samples, exact to the sample.

`read.py` opens files through this; `source.py` gives it their bytes. Rate and channels are looked at in every frame:
what differs from the first frame's is brought to them. Change here how FFmpeg's decoders are driven: where they are
entered, what damaged packets mean, and how frames become arrays.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np

from jukebox.utils.audio.source import Source, Span
from jukebox.utils.errors import UserError
from jukebox.utils.plural import counted

PREROLL = 0.5  # seconds decoded before the first wanted sample after a seek, so that codecs have settled
PIECE = 1 << 18  # samples that are resampled at a time; one frame of hours would overflow FFmpeg's sizes
SHORTEST = 64  # samples (of the slower rate) that the resampler is given at least
GAP = 0.05  # seconds; time stamps that continue later than this after a frame mean that something is missing between
SKIP_MANUAL = 1 << 29  # FFmpeg's AV_CODEC_FLAG2_SKIP_MANUAL: the decoder gives the padding too
_WHOLE_64 = ("s64", "s64p")  # sample formats that PyAV makes no arrays of
MAX_BAD = 0.1  # share of packets that may be damaged before a file counts as undecodable
RATES = (100, 6_000_000)  # Hz that are believed; DSD counts as 5.6 MHz


class AudioError(UserError):
    """A file that cannot be read as audio; the message names it."""


class Cut(str):
    """A note that says that the end of a file is missing, and from where."""


@contextlib.contextmanager
def named_errors(file: str, doing: str = "read") -> Iterator[None]:
    """Makes an `AudioError` with the file's name of whatever the block raises: one file never ends a job."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # FFmpeg's own, PyAV's for what it does not know, NumPy's for absurd sizes
        raise AudioError(f"cannot {doing} {file}: {_reason(error)}") from error


class AudioReader:
    """An open audio file that gives samples [start, stop) at its own rate, exact as if decoded from the beginning.

    Args:
        file: its path.
        span: the part of its bytes to read.
        damaged: "refuse" raises if the file cannot be read on; "keep" takes it as far as it goes.

    Attributes:
        rate: of the first frame, in Hz.
        notes: lines on what is wrong with what was read: how many packets were left out, and, as a `Cut`, where the
            file ends early.
        failure: why "refuse" would not have read it; "" if it would have.
    """

    def __init__(self, file: str | os.PathLike[str], span: Span | None = None, damaged: str = "refuse") -> None:
        self.file, self.span, self.damaged = os.fspath(file), span or Span(), damaged
        self.notes: list[str] = []
        self.failure = ""
        self._open()

    def _open(self) -> None:
        with named_errors(self.file, "open"):
            self.source = Source(self.file, self.span)
        try:
            self.container = open_container(self.file, self.source)
        except BaseException:
            self.source.close()
            raise
        try:
            with named_errors(self.file, "decode"):
                self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self.stream = self.container.streams.best("audio")
        if self.stream is None:
            raise AudioError(f"{self.file} has no audio in it")
        if self.stream.codec_context is None:  # decoding it ends the process in older versions of PyAV
            raise AudioError(f"cannot decode {self.file}: FFmpeg knows no codec for its audio")
        self._bad = self._packets = self._lost = self._here = self._wanted = self._silent = self._gaps = 0
        numbered = self.container.format.name == "flac"  # each frame says where it belongs, and has a checksum
        if numbered:
            self.stream.codec_context.options = {"err_detect": "crccheck+explode"}
        self.rate = 1
        self._rest = self._frames()  # continues within the first packet, which may hold several frames
        first = next(self._rest, None)
        if first is None:
            raise AudioError(f"cannot decode {self.file}: there are no samples in it")
        self._first = first
        self.rate = first.sample_rate
        if not RATES[0] <= self.rate <= RATES[1]:
            raise AudioError(f"cannot decode {self.file}: its header says {self.rate:,} samples a second")
        # If every sample has its own time stamp, a frame's place in the file is known after a seek.
        self._exact = first.pts is not None and (Fraction(1, self.rate) / self.stream.time_base).denominator == 1
        if self.container.format.name == "ogg" and self.stream.codec_context.name == "flac":
            self._exact = False  # the stamps on its last page are wrong
        self._origin = 0 if numbered and self._exact else first.pts
        self._gap = 0 if numbered and self._exact else GAP * self.rate
        # Vorbis stamps single frames wrongly: believe two that agree.
        self._doubtful = self.stream.codec_context.name == "vorbis"
        # What the header says; 0 if it says nothing.
        self._length = round((self.stream.duration or 0) * self.stream.time_base * self.rate)
        # In MP4 files, what follows is the encoder's padding. FFmpeg cuts it off from Ogg Vorbis, but wrongly if all is
        # in one page: the first samples do not have the stamp 0 then.
        padded = "mp4" in self.container.format.name
        if self.container.format.name == "ogg" and self._doubtful and first.pts and self.stream.start_time == 0:
            self.stream.codec_context.flags2 |= SKIP_MANUAL
            padded = True
        self._limit = self._length if padded and self._length else None

    def close(self) -> None:
        self.container.close()
        self.source.close()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(
        self, start: int, stop: int | None, approx: bool = False, make: Callable[[], Parts] | None = None
    ) -> np.ndarray:
        """float32 [1 or 2, at most stop - start]; one call for each opened file.

        Args:
            make: makes what takes the pieces as they are decoded, for each time that the file is entered.
        """
        make = make or Parts
        self._wanted = start
        if self._limit is not None:
            stop = self._limit if stop is None else min(stop, self._limit)
        preroll = 0 if approx else round(PREROLL * self.rate)
        if self._exact and start - preroll > self.rate:
            try:
                x = self._read_from(self._seek(start - preroll), start, stop, approx, make())
            except AudioError:
                if self.damaged != "keep":
                    raise
                x = None
            if x is not None:
                return x
            self.close()  # the file could not be entered there: decode it from its beginning
            self._open()
            self._wanted = start
        x = self._read_from(chain((self._first,), self._rest), start, stop, False, make())
        return np.zeros((1, 0), np.float32) if x is None else x

    def _seek(self, sample: int) -> Iterator[Any]:
        """Frames from the last entry point before a sample on; none if the file has no way in."""
        import av

        stamp = self._origin + int(Fraction(sample, self.rate) / self.stream.time_base)
        try:
            self.container.seek(stamp, stream=self.stream, backward=True)
        except (av.error.FFmpegError, OSError):
            return iter(())
        return self._frames()

    def _place(self, frame: Any) -> int | None:
        """Index of a frame's first sample, counted from the first sample of the file."""
        if not self._exact or frame.pts is None:
            return None
        return round((frame.pts - self._origin) * self.stream.time_base * self.rate)

    def _pieces(self, frames: Iterator[Any]) -> Iterator[tuple[Any, int, np.ndarray | None]]:
        """(frame, samples, None) for frames of the file's rate. For each run of another rate: the first frame, and
        audio at the file's rate, float32 [channels, samples]."""
        run: list[Any] = []

        def joined() -> tuple[Any, int, np.ndarray]:
            rate = run[0].sample_rate
            x = _side_by_side([_samples(frame) for frame in run])
            ends = round(x.shape[1] * self.rate / rate)
            x = resample_audio(x, rate, self.rate)[:, :ends]
            return run[0], x.shape[1], x

        for frame in frames:
            if run and frame.sample_rate != run[0].sample_rate:
                yield joined()
                run = []
            if frame.sample_rate == self.rate:
                yield frame, frame.samples, None
            else:
                run.append(frame)
        if run:
            yield joined()

    def _read_from(
        self, frames: Iterator[Any], start: int, stop: int | None, approx: bool, parts: Parts
    ) -> np.ndarray | None:
        """Collects [start, stop) from frames. None if the first frame's place is unknown or after the start, or if
        another rate would have to be resampled from its beginning."""
        here = -1  # place of the next sample
        expected: int | None = None  # by the stamp of the frame before
        entered = False  # somewhere in the file, and not at its beginning
        gap = GAP * self.rate if approx else self._gap
        for frame, samples, audio in self._pieces(frames):
            place = self._place(frame)
            if here < 0:
                if frame is self._first or approx:
                    here = start if approx else 0
                elif place is None or place > start:
                    return None
                elif self._doubtful and place != expected:
                    expected = place + samples
                    continue
                else:
                    here = place
                entered = frame is not self._first
            if place is not None and gap < place - here <= self._length - here:  # something is missing
                silent = max(0, (place if stop is None else min(place, stop)) - max(here, start))
                parts.append(np.zeros((1, silent), np.float32))
                self._silent += silent
                self._gaps += silent > 0
                here = place
            if entered and audio is not None:
                return None
            end = here + samples
            if end > start:
                cut = slice(max(0, start - here), None if stop is None else max(0, stop - here))
                parts.append((_samples(frame) if audio is None else audio)[:, cut])
            here = self._here = end
            if stop is not None and here >= stop:
                break
        else:
            self._note_end(here, stop)
        if here < 0:
            return None
        if self._lost:
            self.notes.append(f"{self.file}: {self._lost} of {self._packets} packets are damaged and left out")
        if self._gaps:
            seconds = f"{self._silent / self.rate:.2f} s in {counted(self._gaps, 'place')}"
            self.notes.append(f"{self.file}: {seconds} are damaged, and silent here")
        return parts.join()

    def _note_end(self, here: int, stop: int | None) -> None:
        """Notes where the file is shorter than it says it is."""
        if self.failure or here < 0:
            return
        format, sure = self.container.format.name, self._length
        if format in ("mp3", "aac", "ogg") and not (format == "mp3" and _counts_frames(self.file)):
            sure = 0  # an estimate, or what was found at the end of the file
        tolerance = GAP if self.stream.codec_context.name.startswith(("pcm", "flac", "alac")) else 0.5
        missing = sure - here > tolerance * self.rate
        if missing or self.span.cut:
            why = self.span.cut or f"its header says {sure / self.rate:.2f} s"
            self.notes.append(Cut(f"{self.file} breaks off at {here / self.rate:.2f} s: {why}"))

    def _frames(self) -> Iterator[Any]:
        """Decoded frames from the file's position on; damaged packets are left out up to a share of all."""
        import av

        packets = self.container.demux(self.stream)
        stuck = 0
        while True:
            packet = None
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                stuck = 0
                self._packets += 1
                frames = packet.decode()
            except av.error.EOFError:
                break
            except Exception as error:
                if packet is None:  # of the demuxer, or of the disk
                    stuck += 1
                    if stuck > 3 or self.source.error or not isinstance(error, av.error.InvalidDataError):
                        return self._stop(error)
                    packets = self.container.demux(self.stream)  # it may find its way again
                self._bad += 1
                self._lost += self._here >= self._wanted
                if self._bad > max(10, MAX_BAD * self._packets):
                    return self._stop(error)
                continue
            yield from frames
        if self.source.error:  # which the demuxer took for the end
            self._stop(self.source.error)

    def _stop(self, error: BaseException) -> None:
        """Stops reading, at a place from which the file cannot be read on.

        Raises:
            AudioError: unless it is to be used as far as it goes, and there is something of it.
        """
        seconds = self._here / self.rate
        where, why = f" beyond {seconds:.2f} s" if self._here else "", _reason(self.source.error or error)
        self.failure = f"cannot decode {self.file}{where}: {why}"
        if self.damaged != "keep" or not self._here:
            raise AudioError(self.failure) from error
        self.notes.append(Cut(f"{self.file} is used up to {seconds:.2f} s, and cannot be read beyond: {why}"))


class Parts:
    """Pieces of audio [channels, n] one after the other, and the array that they make."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def append(self, x: np.ndarray) -> None:
        self.parts.append(x)

    def join(self) -> np.ndarray:
        """All pieces as one array; they are let go."""
        parts, self.parts = self.parts, []
        return _side_by_side([np.zeros((1, 0), np.float32), *parts])


class Resampler:
    """FFmpeg's resampler for one or two channels in pieces, which may be of any length; sample 0 stays at time 0."""

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        import av

        self.from_rate, self.to_rate, self.layout = from_rate, to_rate, "mono" if channels == 1 else "stereo"
        self._resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=to_rate)
        self.taken = 0  # samples
        self.shortest = SHORTEST * max(1, math.ceil(from_rate / to_rate))  # of fewer, the resampler would give none

    def add(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """What is ready after some more samples [channels, n]."""
        import av

        for start in range(0, x.shape[1], PIECE):
            piece = np.ascontiguousarray(x[:, start : start + PIECE], dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.from_rate, self.taken, Fraction(1, self.from_rate)
            self.taken += piece.shape[1]
            for out in self._resampler.resample(frame):
                yield out.to_ndarray()

    def finish(self) -> Iterator[np.ndarray]:
        """The rest. Zeros follow too few samples."""
        missing = self.shortest - self.taken
        if missing > 0:
            yield from self.add(np.zeros((1 if self.layout == "mono" else 2, missing), np.float32))
        for out in self._resampler.resample(None):
            yield out.to_ndarray()


def resample_audio(x: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resamples [channels, T], one or two channels, with FFmpeg's resampler; sample 0 stays at time 0."""
    if from_rate == to_rate or x.shape[1] == 0:
        return x
    wanted = math.ceil(x.shape[1] * to_rate / from_rate)
    resampler = Resampler(from_rate, to_rate, x.shape[0])
    short = x.shape[1] < resampler.shortest
    y = np.concatenate([x[:, :0], *resampler.add(x), *resampler.finish()], axis=1)
    return y[:, :wanted] if short else y


def _side_by_side(parts: list[np.ndarray]) -> np.ndarray:
    """Parts one after the other, [channels, samples]; if some have two channels, those of one go to both.

    The list is emptied on the way, so that no part is held twice.
    """
    n_channels = max(part.shape[0] for part in parts)
    x = np.empty((n_channels, sum(part.shape[1] for part in parts)), np.float32)
    parts.reverse()
    here = 0
    while parts:
        part = parts.pop()
        x[:, here : here + part.shape[1]] = part
        here += part.shape[1]
    return x


def _counts_frames(file: str) -> bool:
    """Whether the first frame of an MP3 file says how many there are."""
    with open(file, "rb") as content:
        head = content.read(10)
        if head[:3] == b"ID3":  # its length has seven bits in each byte
            content.seek(10 + sum((head[6 + i] & 0x7F) << 7 * (3 - i) for i in range(4)))
            head = b""
        return any(mark in head + content.read(4096) for mark in (b"Xing", b"Info", b"VBRI"))


def open_container(file: str, source: Source) -> Any:
    """FFmpeg's container of a file.

    Raises:
        AudioError: it cannot be opened.
    """
    import av

    # FFmpeg looks through megabytes of a WAV for disguised codecs, which takes longer than decoding a chunk.
    options = {"probesize": "32768"} if file.lower().endswith(".wav") else {}
    options["protocol_whitelist"] = "none"  # a list of other files or addresses has no audio of its own
    with named_errors(file, "open"):
        return av.open(source, options=options, metadata_errors="replace")


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error or "").split()) or type(error).__name__


def _samples(frame: Any) -> np.ndarray:
    """float32 [1 or 2, samples] of a decoded frame, whatever its sample format; more channels become their mean."""
    channels = frame.layout.nb_channels
    if frame.format.name in _WHOLE_64:
        planes = [np.frombuffer(plane, np.int64) for plane in frame.planes]
        x = np.stack([plane[: frame.samples * channels // len(planes)] for plane in planes])
    else:
        x = frame.to_ndarray()
    if not frame.format.is_planar:
        x = x.reshape(-1, channels).T
    y: np.ndarray
    if x.dtype == np.uint8:
        y = (x.astype(np.float32) - 128) / 128
    elif x.dtype.kind == "i":
        y = x.astype(np.float32) / np.float32(2.0 ** (8 * x.dtype.itemsize - 1))
    else:
        y = x.astype(np.float32, copy=False)
    return y if channels <= 2 else y.mean(axis=0, keepdims=True)
