"""Labels brought to what a labeller takes: what its tables do not know is noted and counts as unknown.

Change here which labels are noted; where labels come from is in `metadata.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from jukebox.data.labels import Labeller
from jukebox.data.metadata import UNKNOWN, Notices, SongLabels
from jukebox.data.spelling import read_for, spelt_otherwise
from jukebox.utils.errors import UserError
from jukebox.utils.label_row import read_signal


def genre_for(labeller: Labeller, genre: str, notices: Notices, name: str) -> str:
    """What of a genre a labeller can take: in v3 the first known of several, in v2 no more words than slots."""
    ag = labeller.ag_processor
    if labeller.v3:
        options = [genre, *(part.strip() for part in re.split(r"[;,/|]", genre))]
        known = next((part for part in options if part and part.lower() in ag.genre_ids), None)
        if known is None and genre.strip():
            _note_unknown(notices, "genre", genre, ag.nearest_genres, name)
        return known if known is not None else genre
    words = ag.genre_names(genre)
    unknown = [word for word in words if word and word not in ag.genre_ids]
    if unknown:
        _note_unknown(notices, "genre word", unknown[0], ag.nearest_genres, name)
    if len(words) <= labeller.max_genre_words:
        return genre
    notices.add(f"genre of more than {labeller.max_genre_words} words (max_bow_genre_size), the rest is left out", name)
    ordered = [word for word in words if word not in unknown] + unknown
    return " ".join(ordered[: labeller.max_genre_words])


def labels_for(labeller: Labeller, labels: SongLabels, notices: Notices, name: str) -> SongLabels:
    """Labels that `labeller.get_label` takes without fail; what had to change or is unknown is noted."""
    ag = labeller.ag_processor
    if labels.artist.strip() and ag.artist_name(labels.artist) not in ag.artist_ids:
        _note_unknown(notices, "artist", labels.artist, ag.nearest_artists, name)
    if labeller.n_tokens:
        lyrics, times = read_for(labeller.text_processor, labels.lyrics, labels.times)
        labels = replace(labels, lyrics=lyrics, times=None if times is None else tuple((a, b) for a, b in times))
        if spelt_otherwise(labeller.text_processor, lyrics):
            notices.add("letters of the lyrics are spelt with others; labels build --vocab=auto keeps them", name)
        clean = labeller.text_processor.clean(labels.lyrics)
        if not clean.strip():
            notices.add("no lyrics", name)
        elif len(clean) < 0.7 * len(labels.lyrics):
            notices.add("more than 30 % of the lyrics' characters are not in the vocabulary and are left out", name)
    signals = {}
    for key in labeller.row.signal_names:
        try:
            value = labels.signals.get(key)
            if read_signal(key, value) < 0:
                notices.add(f"no {key} is known, it counts as {UNKNOWN!r}", name)
            signals[key] = value
        except UserError as error:
            notices.add(f"a {key} cannot be read, it counts as {UNKNOWN!r}", f"{name}: {error}")
    return replace(labels, genre=genre_for(labeller, labels.genre, notices, name), signals=signals)


def _note_unknown(notices: Notices, what: str, value: str, nearest: Callable[[str], list[str]], name: str) -> None:
    kind = f"{what} is not in the label table, it counts as {UNKNOWN!r}"
    if value.strip().lower() == UNKNOWN:
        return
    if kind in notices.counts:
        notices.add(kind, name)
    else:
        notices.add(kind, f"{name}: {value!r}, nearest are {', '.join(nearest(value)) or 'none'}")
