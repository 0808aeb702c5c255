"""Writes the player page of one level: an `index.html` that sings along, and the small files beside it.

    save_html("DIR/level_2", x, zs, labels, alignments, hps)

The page opens from disk, on a phone, without a network: style, script and data are inlined, audio and pictures are
named by relative paths. Its look is in `jukebox/page/` (*.html, player.css, player.js); what it says is decided here.
This file and that folder import only numpy and the standard library.

What may be changed: the templates, freely; `SETTINGS`, to show more of a run's flags.
"""

from __future__ import annotations

import io
import json
import os
import re
import wave
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from jukebox.page.parts import asset, clean, clock, definitions, frame, template
from jukebox.page.pictures import alignment_picture, waveform_path
from jukebox.page.times import CharacterTimes, character_times, lines_of, lrc, to_array
from jukebox.utils.files import atomic_write, link_or_copy
from jukebox.utils.flag_values import FORMATS
from jukebox.utils.label_row import SIGNALS, LabelRow

# Flags that the page shows if the run has them.
SETTINGS = {
    "model": "Model",
    "mode": "Mode",
    "seed": "Seed",
    "temp": "Temperature",
    "top_k": "Top k",
    "top_p": "Top p",
    "hop_fraction": "Hop (share of the context)",
    "sample_length_in_seconds": "Length (s)",
    "total_sample_length_in_seconds": "Imagined whole song (s)",
    "prompt_length_in_seconds": "Prompt length (s)",
    "audio_file": "Prompt",
    "codes_file": "Codes from",
    "sr": "Sample rate (Hz)",
    "dtype": "Number format",
    "engine": "Engine",
}


def save_html(logdir: str | os.PathLike[str], x: Any, zs: Any, labels: Any, alignments: Any, hps: object) -> None:
    """Writes the player page of one level and the files that it needs, each atomically and the page last.

        index.html               every item: player, waveform, lyrics that light up, alignment, labels, settings
        item_{i}.wav             written here only if no item_{i}.wav, .flac or .mp3 is there yet
        item_{i}/audio.wav       the same file again (a hard link if the disk has them): the folder is complete
        item_{i}/lyrics.json     artist, genre, title, lyrics, full_tokens
        item_{i}/align.json      starts, ends (seconds per character), lit (character per row), seconds_per_row, shift
        item_{i}/align.png       the alignment as a picture
        item_{i}/lyrics.lrc      the lyrics, timed line by line

    Args:
        logdir: folder, made if missing; its name `level_{L}` tells the level.
        x: float array or tensor [N, T, 1], the decoded audio, in [-1, 1].
        zs: codes per level, low to high, each [N, L_level].
        labels: dict {y: ints [N, LabelRow.size], info: [{artist, genre, lyrics, full_tokens}]}, or None. An entry
            of `info` may have a `title` too; 'n/a', '' and None mean that there is none.
        alignments: list of N float arrays [T_top, len(lyrics)] or None; None if the model has no alignment.
        hps: mapping or object. `sr` (Hz) is needed. The rest is used if it is there: SETTINGS, `name`, `level`,
            `format` (which audio file to play if there are several) and `alignment_shift` (for `character_times`).

    Raises:
        ValueError: hps without `sr`.
    """
    if not _get(hps, "sr"):
        raise ValueError("save_html needs hps.sr, the sample rate in Hz")
    folder = Path(logdir)
    folder.mkdir(parents=True, exist_ok=True)
    audio = np.nan_to_num(to_array(x))[:, :, 0]  # [N, T]
    labels = labels or {}
    infos = list(labels.get("info") or [])
    y = to_array(labels.get("y", ()))
    sections, data = [], []
    for i, samples in enumerate(audio):
        known = y.ndim == 2 and len(y) > i and y.shape[1] >= LabelRow.offset.stop
        part = (
            [y[i, column].item() / _get(hps, "sr") for column in (LabelRow.total, LabelRow.offset)] if known else None
        )
        info = (infos[i] if i < len(infos) else None) or {}
        alignment = alignments[i] if alignments is not None and i < len(alignments) else None
        section, changes = _item(folder, i, samples, info, part, alignment, hps)
        sections.append(section)
        data.append({"changes": changes})
    _write(folder / "index.html", _page(folder, sections, data, zs, hps))


# --------------------------------------------------------------------------------------------------------- one item


def _item(
    folder: Path, i: int, samples: np.ndarray, info: Mapping[str, Any], part: Any, alignment: Any, hps: object
) -> tuple[str, list[tuple[float, int]]]:
    """Writes the files of one item. Returns its section of the page and the times at which the light moves."""
    seconds, shift = len(samples) / _get(hps, "sr"), _get(hps, "alignment_shift") or 0
    audio = _audio_file(folder, i, samples, hps)
    artist, genre, title, lyrics = (_text(info.get(key)) for key in ("artist", "genre", "title", "lyrics"))
    lyrics = lyrics if lyrics.strip() else ""
    times, note = _times(lyrics, alignment, seconds, shift)

    files: dict[str, str | bytes] = {}
    if lyrics:
        tokens = info.get("full_tokens")
        tokens = [] if tokens is None or isinstance(tokens, str) else to_array(tokens).tolist()
        words = {"artist": artist, "genre": genre, "title": title, "lyrics": lyrics, "full_tokens": tokens}
        files["lyrics.json"] = _json(words)
    if times is not None:
        files["align.json"] = _json(
            {
                "starts": _milliseconds(times.starts),
                "ends": _milliseconds(times.ends),
                "lit": times.lit.tolist(),
                "seconds_per_row": times.seconds_per_row,
                "shift": shift,
            }
        )
        files["align.png"] = alignment_picture(alignment)
        files["lyrics.lrc"] = lrc(lyrics, times, artist)
    for name in ("lyrics.json", "align.json", "align.png", "lyrics.lrc"):
        path = folder / f"item_{i}" / name
        if name in files:
            _write(path, files[name])
        else:
            path.unlink(missing_ok=True)  # left by an earlier page that had more to show

    rows = [("Artist", artist), ("Genre", genre)]
    rows += [(name.capitalize(), _text(info.get(name))) for name in SIGNALS]
    if part is not None:
        rows.append(("Part of the song", f"{clock(part[1])} to {clock(part[1] + seconds)} of {clock(part[0])}"))
    heading = title or f"Item {i}"
    changes = [(round(t, 3), character) for t, character in times.changes()] if times is not None else []
    section = template("item.html").substitute(
        i=i,
        heading=escape(heading),
        labels=definitions(rows) or '<p class="quiet">Made without labels.</p>',
        audio=audio.name,
        suffix=audio.suffix[1:].upper(),
        seconds=f"{seconds:.3f}",
        clock=clock(seconds),
        waveform=waveform_path(samples),
        lyrics=_lyrics(heading, lyrics, note) if lyrics else "",
        alignment=_alignment(i, heading, changes, seconds, len(lyrics)) if times is not None else "",
    )
    return section, changes


def _times(lyrics: str, alignment: Any, seconds: float, shift: int) -> tuple[CharacterTimes | None, str]:
    """The times of the characters, or why there are none, in a sentence for the listener."""
    if not lyrics:
        return None, ""
    if alignment is None:
        return None, "There is no alignment for this item, so the lyrics do not light up."
    weights = to_array(alignment)
    if weights.ndim != 2 or weights.shape[1] != len(lyrics) or len(weights) == 0 or seconds == 0:
        return None, "The alignment does not fit these lyrics, so they do not light up."
    times = character_times(weights, seconds / len(weights), shift)
    if (times.lit < 0).all():
        return times, "The music attends to none of these lyrics, so they do not light up."
    return times, ""


def _audio_file(folder: Path, i: int, samples: np.ndarray, hps: object) -> Path:
    """Finds the audio of an item, or writes it as 16-bit WAV, and puts it into the item's folder too."""
    kinds = sorted(FORMATS, key=lambda kind: kind != _get(hps, "format"))
    path = next((p for kind in kinds if (p := folder / f"item_{i}.{kind}").is_file()), None)
    if path is None:
        path, buffer = folder / f"item_{i}.wav", io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(int(_get(hps, "sr")))
            file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        _write(path, buffer.getvalue())
    own = folder / f"item_{i}"
    own.mkdir(exist_ok=True)
    copy = own / f"audio{path.suffix}"
    for kind in FORMATS:
        if kind != path.suffix[1:]:
            (own / f"audio.{kind}").unlink(missing_ok=True)
    if not (copy.exists() and copy.samefile(path)):  # renaming a link over a link to the same file would leave both
        link_or_copy(path, copy)
    return path


def _lyrics(heading: str, lyrics: str, note: str) -> str:
    return template("lyrics.html").substitute(
        heading=escape(heading),
        timed="" if note else " timed",
        note=f'<p class="quiet">{escape(note)}</p>' if note else "",
        lines="".join(f'<p data-start="{start}" dir="auto">{escape(line)}</p>' for start, line in lines_of(lyrics)),
    )


def _alignment(i: int, heading: str, changes: list[tuple[float, int]], seconds: float, characters: int) -> str:
    points = []  # of the path of the light, in thousandths of the picture
    for (start, character), (end, _) in zip(changes, changes[1:], strict=False):
        y = round(1000 * (character + 0.5) / characters)
        points += [f"{round(1000 * start / seconds)} {y}", f"{round(1000 * end / seconds)} {y}"]
    line = f"M{'L'.join(points)}" if points else ""
    return template("alignment.html").substitute(i=i, heading=escape(heading), line=line)


# --------------------------------------------------------------------------------------------------------- the page


def _page(folder: Path, sections: list[str], data: list[dict[str, Any]], zs: Any, hps: object) -> str:
    match = re.fullmatch(r"level_(\d+)", folder.name)
    level = int(match[1]) if match else _get(hps, "level")
    name = _text(Path(_text(_get(hps, "name")) or folder.absolute().parent.name).name) or "Jukebox"
    about = "1 item" if len(sections) == 1 else f"{len(sections)} items"
    if level is not None:
        finest = "the finest: this is the finished sound" if level == 0 else "a draft: level 0 is the finished sound"
        about += f", decoded from level {level}, {finest}."
    settings = [(title, _value(key, _get(hps, key))) for key, title in SETTINGS.items()]
    settings.append(("Codes per level", _value("codes", [to_array(z).shape[1] for z in zs or []])))
    return frame(
        title=name,
        about=escape(about),
        what="items",
        count=len(sections),
        main="".join(sections),
        footer=template("player_footer.html").substitute(settings=definitions(settings)),
        style=asset("player.css"),
        script=asset("player.js"),
        data=_json(data),
    )


def save_joined_page(folder: Path, songs: Sequence[tuple[str, str, str]]) -> Path:
    """Writes one page that plays the songs of several folders, for runs on several processes.

    Args:
        folder: to write `index.html` to; made if missing.
        songs: of each its heading, its audio and its player page, relative to the folder.
    """
    part = template("joined_item.html").substitute
    sections = [
        part(i=i, heading=escape(heading), audio=quote(audio), page=quote(page))
        for i, (heading, audio, page) in enumerate(songs)
    ]
    page = folder / "index.html"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(page, "w") as file:
        file.write(
            frame(
                title=folder.name,
                about=f"{len(songs)} songs, made by several processes.",
                what="items",
                count=len(songs),
                main="".join(sections),
                footer="",
                style=asset("player.css"),
                script="",
            )
        )
    return page


# ----------------------------------------------------------------------------------------------------- small things


def _get(hps: object, key: str) -> Any:
    return hps.get(key) if isinstance(hps, Mapping) else getattr(hps, key, None)


def _text(value: Any) -> str:
    """A label as text: '' for none; characters that no page can hold are replaced one for one, so that indices stay."""
    if not isinstance(value, (str, int, float)) or value == "n/a":
        return ""
    return clean(str(value), keep="\n\t")


def _value(key: str, value: Any) -> str:
    """A setting as text: '' for one that is not set; of files only the name, for a page may be shown to others."""
    values = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    if key in ("top_k", "top_p") and not any(values):
        return ""
    if key == "audio_file":
        values = [re.split(r"[\\/]", name)[-1] for each in values for name in str(each).split(",")]
    if key == "codes_file":
        values = ["/".join(re.split(r"[\\/]", str(each))[-3:]) for each in values]
    return ", ".join(f"{v:g}" if isinstance(v, float) else _text(v) for v in values)


def _milliseconds(seconds: np.ndarray) -> list[float | None]:
    return [None if np.isnan(s) else round(float(s), 3) for s in seconds]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _write(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader sees the old one or the whole new one."""
    with atomic_write(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
