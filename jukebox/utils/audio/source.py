"""The bytes of an audio file, as FFmpeg is given them.

FFmpeg opens no file itself: it would take a colon in a name for a protocol, and an error of the disk for the end. Here
is also what some files need before a demuxer can read them correctly. An Ogg file may hold several streams one after
the other. The size in a WAV file's header ends at 4 GiB. Change here what is known of such files.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

MOST_CHUNKS = 10_000  # of a WAV or AIFF file
_BLOCK = 1 << 20
_OGG_HEAD = 27  # bytes of an Ogg page before its table of segments
_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ", b"fishead", b"\x80theora", b"OVP80", b"PCM     ")
_WRAP = 1 << 32  # a WAV header counts bytes up to here
_OPEN_END = b"\xff\xff\xff\xff"  # as the size of a WAV's samples: up to the end of the file


@dataclass(frozen=True)
class Span:
    """The part of a file that a demuxer reads: bytes [start, end), None being the end of the file.

    Attributes:
        patch: place in the file and bytes that are there instead of its own.
        cut: what shows that the file was longer once; "" for nothing.
    """

    start: int = 0
    end: int | None = None
    patch: tuple[int, bytes] | None = None
    cut: str = ""


class Source:
    """A file to be read by FFmpeg through PyAV; remembers an error of the disk, which demuxers take for the end."""

    def __init__(self, path: str, span: Span) -> None:
        self.name = "audio" + os.path.splitext(path)[1].lower()  # for FFmpeg's guess; free of colons and the like
        self.error: OSError | None = None
        self._span = span
        self._file = open(path, "rb", buffering=0)
        self._end = os.fstat(self._file.fileno()).st_size if span.end is None else span.end
        self._file.seek(span.start)

    def read(self, n: int = -1) -> bytes:
        try:
            place = self._file.tell()
            left = max(0, self._end - place)
            data = self._file.read(left if n < 0 else min(n, left))
        except OSError as error:
            self.error = error
            raise
        if self._span.patch is not None:
            data = _patched(data, place, *self._span.patch)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (self._span.start, self._file.tell(), self._end)[whence]
        return self._file.seek(max(self._span.start, base + offset)) - self._span.start

    def tell(self) -> int:
        return self._file.tell() - self._span.start

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()


def _patched(data: bytes, place: int, where: int, new: bytes) -> bytes:
    first, last = max(place, where), min(place + len(data), where + len(new))
    if first >= last:
        return data
    return data[: first - place] + new[first - where : last - where] + data[last - place :]


def spans(path: str) -> tuple[Span, ...]:
    """The parts of a file that are read one after the other; nearly always one, the whole.

    Raises:
        OSError: the file cannot be opened, or is not a regular one: opening a pipe would wait for ever.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return _spans(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _spans(path: str, size: int, mtime_ns: int) -> tuple[Span, ...]:
    with open(path, "rb", buffering=0) as file:
        head = file.read(12)
        try:
            if head[:4] == b"OggS":
                return _ogg_links(file, size)
            if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
                if found := _wav_span(file, size):
                    return (found,)
                raise _EndlessError(errno.EINVAL, f"there are no samples in its first {MOST_CHUNKS:,} chunks")
        except _EndlessError:  # the demuxer would walk on to the end, for hours
            raise
        except OSError:  # of the disk: the demuxer meets it again, and it is told then
            pass
    return (Span(),)


class _EndlessError(OSError):
    """A file of nothing but chunks."""


def _ogg_links(file: Any, size: int) -> tuple[Span, ...]:
    """One span for each stream of a chained Ogg file: from a page that begins one, and none such before it."""
    starts: list[int] = []
    behind = -1  # the page before, if it began a stream, ends here
    place, tail = 0, b""
    last = -1
    while block := _read_at(file, place, _BLOCK):
        text = tail + block
        origin = place - len(tail)
        at = text.find(b"OggS\x00")
        while at >= 0:
            last = origin + at
            if text[at + 5 : at + 6] and text[at + 5] & 2:
                page = _read_at(file, last, _OGG_HEAD + 255 + 16)
                count = page[26] if len(page) > 26 else 0
                body = page[_OGG_HEAD + count :]
                if body.startswith(_CODECS):
                    if last != behind:
                        starts.append(last)
                    behind = last + _OGG_HEAD + count + sum(page[_OGG_HEAD : _OGG_HEAD + count])
            at = text.find(b"OggS\x00", at + 5)
        place += len(block)
        tail = text[-5:]
    page = _read_at(file, last, _OGG_HEAD + 255)
    count = page[26] if len(page) > 26 else 0
    ends = last + _OGG_HEAD + count + sum(page[_OGG_HEAD : _OGG_HEAD + count])
    cut = "its last page is not whole" if ends > size else ""
    if len(starts) < 2:
        return (Span(cut=cut),)
    starts[0] = 0
    return tuple(
        Span(start, end, cut=cut if end == size else "") for start, end in zip(starts, [*starts[1:], size], strict=True)
    )


def _wav_span(file: Any, size: int) -> Span | None:
    """A WAV file whose size field could not count its samples is read up to where they end; None if none are found."""
    big = chunks = 0
    for name, place, length in riff_chunks(file):
        chunks += 1
        if name == b"ds64":
            big = int.from_bytes(_read_at(file, place + 16, 8), "little")
        if name == b"data":
            start = place + 8
            if big and length == _WRAP - 1 or length in (0, _WRAP - 1):  # RF64, or written to a pipe
                missing = big - (size - start) if length == _WRAP - 1 else 0
                return Span(cut=_bytes_missing(missing))
            if start + length > size:
                return Span(cut=_bytes_missing(start + length - size))
            rest = size - start - length
            if rest >= _WRAP:  # the field has begun again from 0
                length += rest // _WRAP * _WRAP
                return Span(0, start + length, (place + 4, _OPEN_END))
            if rest > _BLOCK and length >= _WRAP - _BLOCK:  # the field was held at its largest
                return Span(patch=(place + 4, _OPEN_END))
            return Span()
    return Span() if chunks < MOST_CHUNKS else None


def riff_chunks(file: Any, order: Literal["little", "big"] = "little") -> Iterator[tuple[bytes, int, int]]:
    """Name, place of the header and length of each chunk of a WAV file, or of an AIFF file, whose order is "big".

    At most MOST_CHUNKS: zeros, as a recorder that lost its power leaves them, would be read as chunks without length.
    """
    place = 12
    for _ in range(MOST_CHUNKS):
        head = _read_at(file, place, 8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[4:], order)
        yield head[:4], place, length
        place += 8 + length + length % 2


def _bytes_missing(count: int) -> str:
    return f"{count:,} bytes of the samples that its header counts are missing" if count > 0 else ""


def _read_at(file: Any, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)
