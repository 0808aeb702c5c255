"""ID3 tags, of MP3 files and in other containers: what FFmpeg does not write or read.

Written: version 2.3 with artist, genre, lyrics and comment as frames of their own. FFmpeg makes frames for free text of
lyrics and comments, which players do not show. Read: lyrics with times (SYLT), and genres that are numbers. Source:
id3.org, ID3 tag versions 2.3.0 and 2.4.0.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from jukebox.utils.audio.source import riff_chunks

_TEXT = {"title": b"TIT2", "artist": b"TPE1", "album": b"TALB", "genre": b"TCON", "date": b"TYER"}
_LONG = {"lyrics": b"USLT", "comment": b"COMM"}  # with a language and a description in front
_UTF16 = b"\x01"
_LANGUAGE = b"XXX"  # no language is stated


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


# -------------------------------------------------------------------------------------------------------- reading

GENRES = (  # of ID3 version 1, by number
    "Blues;Classic Rock;Country;Dance;Disco;Funk;Grunge;Hip-Hop;Jazz;Metal;New Age;Oldies;Other;Pop;R&B;Rap;Reggae;"
    "Rock;Techno;Industrial;Alternative;Ska;Death Metal;Pranks;Soundtrack;Euro-Techno;Ambient;Trip-Hop;Vocal;Jazz+Funk;"
    "Fusion;Trance;Classical;Instrumental;Acid;House;Game;Sound Clip;Gospel;Noise;Alternative Rock;Bass;Soul;Punk;"
    "Space;Meditative;Instrumental Pop;Instrumental Rock;Ethnic;Gothic;Darkwave;Techno-Industrial;Electronic;Pop-Folk;"
    "Eurodance;Dream;Southern Rock;Comedy;Cult;Gangsta;Top 40;Christian Rap;Pop/Funk;Jungle;Native American;Cabaret;"
    "New Wave;Psychedelic;Rave;Showtunes;Trailer;Lo-Fi;Tribal;Acid Punk;Acid Jazz;Polka;Retro;Musical;Rock & Roll;"
    "Hard Rock"
).split(";")
_ENCODINGS = {0: "latin-1", 1: "utf-16", 2: "utf-16-be", 3: "utf-8"}
_LARGEST_FRAME = 4_000_000  # bytes of lyrics


def genre_name(text: str) -> str:
    """The genre of a tag by its name: "(17)" and "17" are Rock, "(4)Italo" is Italo."""
    found = re.fullmatch(r"\s*(?:\((\d{1,3})\)\s*)+(.*)|\s*(\d{1,2})\s*", text, re.DOTALL)
    if not found:
        return text
    numbers = [int(n) for n in re.findall(r"\((\d+)\)", text)] or [int(found[3] or 0)]
    names = [GENRES[n] for n in numbers if n < len(GENRES)]
    return (found[2] or "").strip() or "; ".join(names) or text


def read_synced_lyrics(file: str | os.PathLike[str]) -> str:
    """Lyrics with times in an ID3 tag, as the text of an .lrc file; "" if there are none.

    The tag is before the audio, in a chunk of a WAV or AIFF file, or where a DSF file says.
    Whatever is wrong with the tag counts as none: the music can be used without.
    """
    try:
        with open(file, "rb") as stream:
            stream.seek(_tag_place(stream))
            return next((text for frame in _synced_frames(stream) if (text := _synced_text(frame))), "")
    except (OSError, ValueError, LookupError, struct.error):
        return ""


def _tag_place(stream: BinaryIO) -> int:
    """Where the tag begins, 0 if no container says so."""
    head = stream.read(12)
    if head[:4] == b"DSD ":
        (place,) = struct.unpack("<Q", stream.read(16)[8:])
        return int(place)
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"FORM") and head[8:] in (b"WAVE", b"AIFF", b"AIFC"):
        for name, place, _ in riff_chunks(stream, "big" if head[:4] == b"FORM" else "little"):
            if name.upper() == b"ID3 ":
                return place + 8
    return 0


def _synced_frames(stream: BinaryIO) -> Iterator[bytes]:
    """The contents of the frames with lyrics and times, of the tag at the stream's place."""
    begin = stream.tell()
    head = stream.read(10)
    version, flags = head[3], head[5]
    if head[:3] != b"ID3" or version not in (2, 3, 4):
        return
    end = begin + 10 + _synchsafe(head[6:])
    if version > 2 and flags & 0x40:  # a header more
        more = stream.read(4)
        stream.seek(_synchsafe(more) - 4 if version == 4 else struct.unpack(">I", more)[0], os.SEEK_CUR)
    while stream.tell() + 10 < end:
        frame = stream.read(6 if version == 2 else 10)
        if version == 2:
            size = int.from_bytes(frame[3:], "big")
        else:
            size = _synchsafe(frame[4:8]) if version == 4 else struct.unpack(">I", frame[4:8])[0]
        packed = version > 2 and frame[9] & (0x0C if version == 4 else 0xC0)
        if frame[:4] == b"SYLT" or (version == 2 and frame[:3] == b"SLT"):
            content = stream.read(min(size, _LARGEST_FRAME))
            if flags & 0x80 or (version == 4 and frame[9] & 0x02):
                content = content.replace(b"\xff\x00", b"\xff")
            if not packed:
                yield content[4:] if version == 4 and frame[9] & 0x01 else content
        elif frame[0] == 0 or size > end:
            return
        else:
            stream.seek(size, os.SEEK_CUR)


def _synchsafe(content: bytes) -> int:
    return sum((byte & 0x7F) << 7 * i for i, byte in enumerate(reversed(content[:4])))


def _synced_text(frame: bytes) -> str:
    """Text of a SYLT frame, a stamp before each piece; lines as they are, or one for each piece if none is marked."""
    encoding, unit, kind = frame[0], frame[4], frame[5]
    if unit != 2 or kind not in (0, 1, 2):  # milliseconds; lyrics or a transcription
        return ""
    width = 2 if encoding in (1, 2) else 1
    pieces: list[tuple[int, str]] = []
    at = _end_of_text(frame, 6, width) + width  # after the description
    while at < len(frame):
        end = _end_of_text(frame, at, width)
        text = frame[at:end].decode(
            _ENCODINGS[encoding] if encoding != 1 or frame[at : at + 1] in (b"\xff", b"\xfe") else "utf-16-le"
        )
        (stamp,) = struct.unpack(">I", frame[end + width : end + width + 4])
        pieces.append((stamp, text.replace("\r", "")))
        at = end + width + 4
    marked = any("\n" in text for _, text in pieces)
    out = ""
    for stamp, text in pieces:
        written = f"{stamp // 60_000:02d}:{stamp // 1000 % 60:02d}.{stamp % 1000:03d}"
        begins = not out or not marked or text.startswith("\n")
        words = text.strip("\n").replace("\n", " ")
        begins = begins or out.endswith("\n")
        out += f"\n[{written}]{words}" if begins else f"<{written}>{words}"
        out += "\n" if marked and text.endswith("\n") and text.strip("\n") else ""
    return out.strip("\n")


def _end_of_text(frame: bytes, begin: int, width: int) -> int:
    """Where a text ends that a zero closes, of two bytes in UTF-16."""
    at = frame.index(bytes(width), begin)
    while width == 2 and (at - begin) % 2:
        at = frame.index(bytes(width), at + 1)
    return at
