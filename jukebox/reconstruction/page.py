"""The page of a reconstruction: for each song the original and each level below each other, to see and to hear.

It opens from disk without a network: style and script are inlined, audio and pictures are named by relative paths. Its
look is in `jukebox/page/` (reconstruct*.html, reconstruct.css on top of player.css, reconstruct.js); what it says is
decided here. Text of users is escaped wherever it goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from jukebox.page.parts import Said, asset, clean, clock, definitions, frame, template
from jukebox.reconstruction.figures import COLUMNS, Figures, cells, decibels_text
from jukebox.reconstruction.spectrogram import ticks
from jukebox.utils.plural import counted

LEVEL_TABLE_FROM = 2  # songs from which on the table says that it is of all of them


@dataclass(frozen=True)
class Version:
    """A song as it was, or decoded from one level: paths of audio and picture, relative to the page."""

    audio: str
    picture: str
    figures: Figures | None = None  # None: the original


@dataclass(frozen=True)
class ReconstructedSong:
    """A song with its versions, the original first; `seconds` of it from `offset` seconds on."""

    name: str
    seconds: float
    offset: float
    versions: Sequence[Version]


def page(
    title: str, model: str, step: int, sr: int, songs: Sequence[ReconstructedSong], totals: Sequence[Figures]
) -> str:
    """The whole page.

    Args:
        title: name of the folder.
        model: name of the model; of a path only its last part is shown, for a page may be shown to others.
        step: steps the VQ-VAE was trained.
        sr: samples per second.
        songs: at least one.
        totals: figures of each level over all songs, the finest first.
    """
    count = counted(len(songs), "song")
    settings = [
        ("Model", _short(model)),
        ("Trained for", Said(counted(step, "step")) if step else ""),
        ("Sample rate", f"{sr} Hz"),
    ]
    return frame(
        title=clean(title) or "Reconstruction",
        about=f"{count} through the VQ-VAE of {_short(model)} and back, at {sr} Hz.",
        what="songs",
        count=len(songs),
        main=template("reconstruct_main.html").substitute(
            versions=len(songs[0].versions),
            caption="Figures" if len(songs) < LEVEL_TABLE_FROM else f"Figures over all {count}",
            columns="".join(
                f'<th role="columnheader" scope="col" data-say>{escape(column)}</th>' for column in COLUMNS
            ),
            rows="".join(_table_row(figures) for figures in totals),
            items="".join(_item(i, song, sr) for i, song in enumerate(songs)),
        ),
        footer=template("reconstruct_footer.html").substitute(settings=definitions(settings)),
        style=asset("reconstruct.css"),
        script=asset("reconstruct.js"),
    )


def _table_row(figures: Figures) -> str:
    level, *rest = cells(figures)
    values = "".join(
        f'<td role="cell" data-column="{escape(column)}" data-say>{escape(_minus(cell))}</td>'
        for column, cell in zip(COLUMNS[1:], rest, strict=True)
    )
    return (
        f'<tr role="row"><th role="rowheader" scope="row" data-column="{COLUMNS[0]}" data-say>{level}</th>{values}</tr>'
    )


def _item(i: int, song: ReconstructedSong, sr: int) -> str:
    name = escape(clean(song.name))
    part = f", from {clock(song.offset)} on" if song.offset else ""
    return template("reconstruct_item.html").substitute(
        i=i,
        heading=name,
        length=f"{clock(song.seconds)} ({song.seconds:.1f} s){part}",
        seconds=f"{song.seconds:.3f}",
        versions="".join(_version(n, song, version, sr) for n, version in enumerate(song.versions)),
    )


def _version(n: int, song: ReconstructedSong, version: Version, sr: int) -> str:
    figures = version.figures
    if figures is None:
        label, note, facts = "Original", f"as the model hears it: mono, {sr} Hz", ""
    else:
        label = f"Level {figures.level}"
        note = f"{figures.samples_per_code} samples per code{'' if figures.level else ', the finest'}"
        unit = " dB" if figures.decibels is not None and math.isfinite(figures.decibels) else ""
        facts = definitions(
            [
                ("Spectral convergence", Said(_minus(decibels_text(figures)) + unit)),
                ("Bit rate", f"{figures.bit_rate / 1000:.2f} kbit/s"),
                ("Codebook use", f"{figures.use:.1%}"),
                ("Entropy", Said(f"{figures.entropy:.2f} bits per code")),
            ]
        )
    return template("reconstruct_version.html").substitute(
        key=n + 1,
        label=label,
        note=note,
        facts=facts,
        song=escape(clean(song.name)),
        lowercase=label.lower(),
        audio=quote(version.audio),
        suffix=version.audio.rsplit(".", 1)[-1].upper(),
        picture=quote(version.picture),
        seconds=f"{song.seconds:.1f}",
        highest=f"{sr / 2000:.3g} kHz",
        axis="".join(_tick(label, f"{place:.2%}") for label, place in ticks(sr)),
    )


def _tick(label: str, place: str) -> str:
    line = f'<line x1="2.85rem" x2="3.25rem" y1="{place}" y2="{place}"/>'
    return f'<text x="2.6rem" y="{place}" dy=".33em">{label}</text>{line}'


def _short(model: str) -> str:
    """A model's name without its folders."""
    parts = [part for part in clean(model).replace("\\", "/").split(",") if part]
    names = [part.rstrip("/").split("/") for part in parts]
    return ", ".join(n[-2] if len(n) > 1 and n[-1].endswith(".pth.tar") else n[-1] for n in names)


def _minus(number: str) -> str:
    """A number with the sign that is as wide as a plus."""
    return number.replace("-", "\u2212")
