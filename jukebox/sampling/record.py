"""What makes a song again: its title, and all settings beside it in `item_N.json` and in the tags of its file.

`--again=FILE` reads either. Change here what is noted, and how songs are called.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jukebox.utils.errors import UserError
from jukebox.utils.json_text import parse_json
from jukebox.utils.versions import versions

TAG = "jukebox"  # the name of the tag that holds the record
# Flags that say where and how a run is carried out, not what it makes.
_NOT_KEPT = {"name", "resume", "overwrite", "open", "dry_run", "again", "device", "port", "list_artists", "list_genres"}
_FILES = ("codes_file", "lyrics_file", "metas")


def flags_to_repeat(flags: Mapping[str, Any], **decided: Any) -> dict[str, Any]:
    """The flags that make a run again, as plain types: files by absolute paths, and what was decided for the user."""
    kept = {key: value for key, value in flags.items() if key not in _NOT_KEPT and value not in (None, "")}
    for key in _FILES:
        if isinstance(kept.get(key), str):
            kept[key] = os.path.abspath(kept[key])
    prompts = kept.get("audio_file")
    if isinstance(prompts, str):
        kept["audio_file"] = ",".join(os.path.abspath(name) for name in prompts.split(","))
    return {key: value for key, value in {**kept, **decided}.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def title_of(info: Mapping[str, Any], hps: Mapping[str, Any], item: int) -> str:
    """What a song is called: by --title, else by artist and genre; with its number if there are several."""
    songs = list(hps.get("songs") or [])
    number = songs[item] + 1 if item < len(songs) else item + 1
    if hps.get("title"):
        return f"{hps['title']} {number}" if len(songs) > 1 else str(hps["title"])
    names = [str(info.get(key) or "").strip() for key in ("artist", "genre")]
    said = " - ".join(name for name in names if name and name != "n/a")
    return f"{said or 'Song'} {number}"


def file_name(title: str) -> str:
    """A title as the name of a file: no signs that a system or a shell takes otherwise, at most 100 characters."""
    plain = re.sub(r'[\x00-\x1f\x7f\ud800-\udfff/\\:*?"<>|]+', " ", title)
    # A name has at most 255 bytes, endings and signs of unfinished copies included.
    short = " ".join(plain.split()).strip(". ")[:100].encode()[:200].decode(errors="ignore")
    return short.rstrip(". ") or "Song"


def record_of(info: Mapping[str, Any], hps: Mapping[str, Any], item: int) -> dict[str, Any]:
    """All that is known of a song: title, labels, number in its run, the flags of the run and versions."""
    songs = list(hps.get("songs") or [])
    return {
        "title": title_of(info, hps, item),
        **{key: info[key] for key in ("artist", "genre", "lyrics") if isinstance(info.get(key), str)},
        **{key: hps[key] for key in ("model", "mode", "seed", "engine", "dtype", "sr") if hps.get(key) is not None},
        "song": songs[item] if item < len(songs) else item,
        "run": str(hps.get("name") or ""),
        "flags": dict(hps.get("again") or {}),
        "versions": versions(),
    }


def read_again(path: str) -> dict[str, Any]:
    """The flags that make the songs of a record again; `name` is that of the run.

    Args:
        path: an `item_N.json`, or a song with the record in its tags.

    Raises:
        UserError: no such file, or it holds no record.
    """
    if not os.path.isfile(path):
        raise UserError(f"--again={path}: there is no such file; give a song or its item_N.json")
    try:
        text = Path(path).read_text(encoding="utf-8") if path.endswith(".json") else _tag(path)
        record = parse_json(text)
        flags, name = dict(record["flags"]), str(record["run"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"--again={path} holds no record of a song: give a song or its item_N.json") from error
    if not flags.get("model") and not flags.get("weights_from"):
        raise UserError(f"--again={path} does not say by which command it was made: give one that sample.py made")
    place = Path(os.path.abspath(name))
    if Path.cwd() not in place.parents and place not in Path(os.path.abspath(path)).parents:
        name = place.name or "song"  # a file from elsewhere does not decide where we write
    return {**flags, "name": name}


def _tag(path: str) -> str:
    """The record in the tags of an audio file; "" if it has none."""
    import av

    try:
        with av.open(path, metadata_errors="replace") as container:
            streams = [stream.metadata for stream in container.streams.audio]
            found = {key.lower(): text for data in (*streams, container.metadata) for key, text in data.items()}
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(str(error)) from error
    if TAG in found:
        return found[TAG]
    line = next((line for line in found.get("comment", "").splitlines() if line.startswith(f"{TAG}: ")), "")
    return line.removeprefix(f"{TAG}: ")
