"""Writes the player page of one level: an `index.html` that sings along, and the small files beside it.

    save_html("DIR/level_2", x, zs, labels, alignments, hps)

The page opens from disk, on a phone, without a network: style, script and data are inlined, audio and pictures are
named by relative paths. Its look is in `jukebox/page/` (*.html, player.css, *.js); what it says is decided here,
and in `language.js` how that is in Japanese.
This file and that folder import only numpy and the standard library.

What may be changed: the templates, freely; `SETTINGS`, to show more of a run's flags.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import wave
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from jukebox.page.parts import Said, asset, clean, clock, definitions, frame, template
from jukebox.page.pictures import alignment_picture, waveform_path
from jukebox.page.times import CharacterTimes, character_times, lines_of, lrc, to_array
from jukebox.utils.files import atomic_write, link_or_copy
from jukebox.utils.flag_values import FORMATS
from jukebox.utils.label_row import SIGNALS, LabelRow
from jukebox.utils.plural import counted

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
        logdir: folder, made if missing; its name `level_{L}` tells the level. Pages of levels
            beside it link to each other.
        x: float array or tensor [N, T, 1], the decoded audio, in [-1, 1].
        zs: codes per level, low to high, each [N, L_level].
        labels: dict {y: ints [N, LabelRow.size], info: [{artist, genre, lyrics, full_tokens}]}, or None. An entry
            of `info` may have a `title` too; 'n/a', '' and None mean that there is none.
        alignments: list of N float arrays [T_top, len(lyrics)] or None; None if the model has no alignment.
        hps: mapping or object. `sr` (Hz) is needed. The rest is used if it is there: SETTINGS, `name`, `level`,
            `format` (which audio file to play if there are several), `alignment_shift` (for `character_times`),
            `prompt_seconds` (how much of the music was given) and `again` (flags that make the songs again).

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
        song = zs[-1][i] if zs is not None and len(zs) and to_array(zs[-1]).size else samples
        section, changes = _item(folder, i, samples, song_id(song), info, part, alignment, hps)
        sections.append(section)
        data.append({"changes": changes})
    _write(folder / "index.html", _page(folder, sections, data, zs, hps))
    for level, page in _levels(folder).items():
        if page.parent.name != folder.name:
            old = page.read_bytes()
            links = _level_links(folder, level).encode()
            before, found, rest = old.partition(LEVEL_LINKS[0].encode())
            after = rest.partition(LEVEL_LINKS[1].encode())[2]
            if found and (new := before + links + after) != old:
                _write(page, new)


def song_id(codes: Any) -> str:
    """What a browser keeps of a favourite: a digest of its codes or samples, the same on the pages of all levels."""
    return hashlib.sha256(np.ascontiguousarray(to_array(codes)).tobytes()).hexdigest()[:16]


# --------------------------------------------------------------------------------------------------------- one item


def _item(
    folder: Path,
    i: int,
    samples: np.ndarray,
    song: str,
    info: Mapping[str, Any],
    part: Any,
    alignment: Any,
    hps: object,
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
        rows.append(("Part of the song", Said(f"{clock(part[1])} to {clock(part[1] + seconds)} of {clock(part[0])}")))
    prompt = min(float(_get(hps, "prompt_seconds") or 0), seconds)
    if prompt:
        rows.append(("End of the prompt", clock(prompt)))
    heading = title or f"Item {i}"
    changes = [(round(t, 3), character) for t, character in times.changes()] if times is not None else []
    section = template("item.html").substitute(
        i=i,
        song=song,
        own="" if title else " data-say",
        heading=escape(heading),
        labels=definitions(rows) or '<p class="quiet" data-say>Made without labels.</p>',
        audio=audio.name,
        suffix=audio.suffix[1:].upper(),
        seconds=f"{seconds:.3f}",
        clock=clock(seconds),
        waveform=waveform_path(samples),
        prompt=_prompt(prompt / seconds) if prompt else "",
        lyrics=_lyrics(i, heading, lyrics, note) if lyrics else "",
        alignment=_alignment(i, heading, changes, seconds, len(lyrics), shift) if times is not None else "",
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


def _prompt(place: float) -> str:
    """The mark on the waveform, which is `place` of its width from the left, and its words on the wider side."""
    shift, anchor = ("-.5em", "end") if place > 0.5 else (".5em", "start")
    return template("prompt.html").substitute(place=f"{place:.3%}", shift=shift, anchor=anchor)


def _lyrics(i: int, heading: str, lyrics: str, note: str) -> str:
    return template("lyrics.html").substitute(
        i=i,
        heading=escape(heading),
        timed="" if note else " timed",
        note=f'<p class="quiet" data-say>{escape(note)}</p>' if note else "",
        lines="".join(f'<p data-start="{start}" dir="auto">{escape(line)}</p>' for start, line in lines_of(lyrics)),
    )


def _alignment(
    i: int, heading: str, changes: list[tuple[float, int]], seconds: float, characters: int, shift: int
) -> str:
    points = []  # of the path of the light, in thousandths of the picture
    for (start, character), (end, _) in zip(changes, changes[1:], strict=False):
        y = round(1000 * (character + shift + 0.5) / characters)  # its attention is in this column
        points += [f"{round(1000 * start / seconds)} {y}", f"{round(1000 * end / seconds)} {y}"]
    line = f"M{'L'.join(points)}" if points else ""
    return template("alignment.html").substitute(i=i, heading=escape(heading), line=line)


# --------------------------------------------------------------------------------------------------------- the page


def _page(folder: Path, sections: list[str], data: list[dict[str, Any]], zs: Any, hps: object) -> str:
    own = _level_of(folder)
    level = _get(hps, "level") if own is None else own
    name = _text(Path(_text(_get(hps, "name")) or folder.absolute().parent.name).name) or "Jukebox"
    about = counted(len(sections), "item")
    if level is not None:
        finest = "the finest: this is the finished sound" if level == 0 else "a draft: level 0 is the finished sound"
        about += f", decoded from level {level}, {finest}."
    settings = [(title, _value(key, _get(hps, key))) for key, title in SETTINGS.items()]
    settings.append(("Codes per level", _value("codes", [to_array(z).shape[1] for z in zs or []])))
    return frame(
        title=name,
        about=about,
        what="items",
        count=len(sections),
        main=_with_bar(sections),
        footer=template("player_footer.html").substitute(settings=definitions(settings), command=_command(hps)),
        style="",
        script=f"{asset('player.js')}\n{asset('buttons.js')}",
        data=_json(data),
        levels="" if own is None else _level_links(folder, own),
    )


def _with_bar(sections: Sequence[str]) -> str:
    return (asset("bar.html") if len(sections) > 1 else "") + "".join(sections)


LEVEL_LINKS = "<!-- levels -->", "<!-- /levels -->"  # the links are written again as more levels are made


def _level_of(folder: Path) -> int | None:
    match = re.fullmatch(r"level_(\d+)", folder.name)
    return int(match[1]) if match else None


def _levels(folder: Path) -> dict[int, Path]:
    """The pages of all levels of a level's run, by level; none for a folder that has another name."""
    pages = [] if _level_of(folder) is None else folder.absolute().parent.glob("level_*/index.html")
    found = ((_level_of(page.parent), page) for page in pages)
    return {level: page for level, page in found if level is not None}


def _level_links(folder: Path, own: int) -> str:
    """Links from the page of a level to those of the run's other levels, between the signs of LEVEL_LINKS."""
    levels = sorted({*_levels(folder), own})
    here = ' aria-current="page"'
    entries = "".join(
        f'<li><a href="../level_{level}/index.html"{here * (level == own)} data-say>Level {level}</a></li>'
        for level in levels
    )
    links = f'<nav aria-label="Levels" data-say><ul>{entries}</ul></nav>' if len(levels) > 1 else ""
    return f"{LEVEL_LINKS[0]}{links}{LEVEL_LINKS[1]}"


def _command(hps: object) -> str:
    """The command line that makes the songs again, to copy; "" if no command line made them."""
    name = re.sub(r"_rank_\d+$", "", str(_get(hps, "name") or ""))  # processes add this to the name that was typed
    flags = {"name": name, **(_get(hps, "again") or {})}
    if not flags.get("model") and not flags.get("weights_from"):
        return ""
    words = ["python -m jukebox.sample"]
    for key, value in flags.items():
        typed = _get(hps, key) if key in ("audio_file", "codes_file", "lyrics_file", "metas") else value
        text = ",".join(map(str, typed)) if isinstance(typed, (list, tuple)) else str(typed)
        if key in ("name", "audio_file", "codes_file", "lyrics_file", "metas"):
            text = ",".join(re.split(r"[\\/]", name)[-1] if os.path.isabs(name) else name for name in text.split(","))
        words.append(f"--{key}" + ("" if typed is True else f"={shlex.quote(text)}"))
    spans = " ".join(f"<span>{escape(clean(word, keep=chr(10)))}</span>" for word in words)  # lines break between them
    return template("command.html").substitute(command=spans)


def save_joined_page(folder: Path, songs: Sequence[tuple[str, str, str]]) -> Path:
    """Writes one page that plays the songs of several folders, for runs on several processes.

    Args:
        folder: to write `index.html` to; made if missing.
        songs: of each its heading, its audio and its player page, relative to the folder.
    """
    part = template("joined_item.html").substitute
    sections = [
        part(i=i, heading=escape(heading), audio=quote(audio), page=quote(page), song=escape(f"{folder.name}/{i}"))
        for i, (heading, audio, page) in enumerate(songs)
    ]
    page = folder / "index.html"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(page, "w") as file:
        file.write(
            frame(
                title=folder.name,
                about=f"{counted(len(songs), 'song')}, made by several processes.",
                what="songs",
                count=len(songs),
                main=_with_bar(sections),
                footer="",
                style="",
                script=asset("buttons.js"),
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
    places = 2 if key.endswith("_in_seconds") else 9
    return ", ".join(f"{round(v, places):g}" if isinstance(v, float) else _text(v) for v in values)


def _milliseconds(seconds: np.ndarray) -> list[float | None]:
    return [None if np.isnan(s) else round(float(s), 3) for s in seconds]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _write(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader sees the old one or the whole new one."""
    with atomic_write(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
