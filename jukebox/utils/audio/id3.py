"""ID3v2.3 tags, which MP3 players read: artist, genre, lyrics and comment as frames of their own.

FFmpeg writes lyrics and comments as frames for free text, which players do not show; so an MP3 file gets its tag from
here. Source: id3.org, ID3 tag version 2.3.0.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_TEXT = {"title": b"TIT2", "artist": b"TPE1", "album": b"TALB", "genre": b"TCON", "date": b"TYER"}
_LONG = {"lyrics": b"USLT", "comment": b"COMM"}  # with a language and a description in front
_UTF16 = b"\x01"
_LANGUAGE = b"XXX"  # not said


def tag(texts: Mapping[str, str]) -> bytes:
    """Returns the bytes of the tag, which precede the MP3 stream.

    Args:
        texts: name -> text; names other than title, artist, album, genre, date, lyrics and comment become free text.
    """
    frames = b"".join(_frame(name, text) for name, text in texts.items() if text)
    size = len(frames)
    synchsafe = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))  # no byte may look like the start of a frame
    return b"ID3\x03\x00\x00" + synchsafe + frames if frames else b""


def _frame(name: str, text: str) -> bytes:
    if name in _TEXT:
        kind, content = _TEXT[name], _UTF16 + _encode(text)
    elif name in _LONG:
        kind, content = _LONG[name], _UTF16 + _LANGUAGE + _encode("") + b"\x00\x00" + _encode(text)
    else:
        kind, content = b"TXXX", _UTF16 + _encode(name) + b"\x00\x00" + _encode(text)
    return kind + struct.pack(">IH", len(content), 0) + content


def _encode(text: str) -> bytes:
    return b"\xff\xfe" + text.encode("utf-16-le", "replace")
