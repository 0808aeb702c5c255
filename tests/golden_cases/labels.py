"""Golden cases `labels_*`: text, names, label rows, lyric windows, and the index of a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from golden_cases.checks import Check, Skip, case
from jukebox.data.artist_genre_processor import LOCAL_TABLES, ArtistGenreProcessor, norm
from jukebox.data.labels import EmptyLabeller, Labeller, get_relevant_lyric_tokens
from jukebox.data.text_processor import TextProcessor

ERRORS = (ValueError, AssertionError, KeyError)


def tables_folder() -> Path:
    """Where the released label tables are, which are no part of the repository."""
    named = os.environ.get("JUKEBOX_IDS")
    folders = [Path(named)] if named else [LOCAL_TABLES]
    for folder in folders:
        if all((folder / f"{v}_{kind}_ids.txt").is_file() for v in ("v2", "v3") for kind in ("artist", "genre")):
            return folder
    raise Skip(
        "needs the released label tables: set JUKEBOX_IDS to the folder that holds v2_artist_ids.txt and the others"
    )


def tables(version: str) -> dict[str, Any]:
    folder = tables_folder()
    return dict(artist_ids=folder / f"{version}_artist_ids.txt", genre_ids=folder / f"{version}_genre_ids.txt")


@case("labels_text*")
def text(data: dict[str, Any], check: Check) -> None:
    outputs = data["outputs"]
    for version in ("v2", "v3"):
        expected = outputs[version]
        processor = TextProcessor(v3=version == "v3")
        check.equal(f"{version} n_vocab", processor.n_vocab, expected["n_vocab"])
        check.equal(f"{version} vocab", [processor.textise([i]) for i in range(processor.n_vocab)], expected["vocab"])
        for row in expected["rows"]:
            clean = processor.clean(row["text"])
            check.equal(f"{version} clean {row['text']!r}", clean, row["clean"])
            check.equal(f"{version} tokens {row['text']!r}", processor.tokenise(clean), row["tokens"])
            check.equal(f"{version} textise {row['text']!r}", processor.textise(row["tokens"]), row["textise"])
    if outputs.get("tokenise_unclean_raises"):
        check.raises("tokenise unclean", lambda: TextProcessor().tokenise("ü"), KeyError)
    for name, expected_name in outputs["norm"]:
        check.equal(f"norm {name!r}", norm(name), expected_name)
        check.equal(f"v3 name {name!r}", ArtistGenreProcessor(v3=True).artist_name(name), name.lower())


@case("labels_ids*")
def ids(data: dict[str, Any], check: Check) -> None:
    for version, expected in data["outputs"].items():
        processor = ArtistGenreProcessor(v3=version == "v3", **tables(version))
        check.equal(f"{version} n_artists", len(processor.artist_ids), expected["n_artists"])
        check.equal(f"{version} n_genres", len(processor.genre_ids), expected["n_genres"])
        check.equal(f"{version} max_artist_id", max(processor.artist_ids.values()), expected["max_artist_id"])
        check.equal(f"{version} max_genre_id", max(processor.genre_ids.values()), expected["max_genre_id"])
        for name, index in expected["artists"]:
            check.equal(f"{version} artist {name!r}", processor.get_artist_id(name), index)
        for name, indices in expected["genres"]:
            check.equal(f"{version} genre {name!r}", processor.get_genre_ids(name), indices)
        for index, name in expected["reverse_artists"]:
            check.equal(f"{version} artist of {index}", processor.get_artist(index), name)
        for indices, name in expected["reverse_genres"]:
            check.equal(f"{version} genre of {indices}", processor.get_genre(indices), name)


@case("labels_lyric_window*")
def lyric_window(data: dict[str, Any], check: Check) -> None:
    for row in data["outputs"]["rows"]:
        full = [(7 * i) % 78 + 1 for i in range(row["n_full"])]
        given = tuple(row[key] for key in ("n_tokens", "total_length", "offset", "duration"))
        what = f"{row['n_full']} lyrics, {given}"
        if row["raises"]:
            check.raises(what, lambda full=full, given=given: get_relevant_lyric_tokens(full, *given), ERRORS)
            continue
        tokens, indices = get_relevant_lyric_tokens(full, *given)
        check.equal(f"tokens {what}", tokens, row["tokens"])
        check.equal(f"indices {what}", indices, row["indices"])
    for row in data["outputs"]["float32"]:
        full = [(7 * i) % 78 + 1 for i in range(row["n_full"])]
        lengths = [row[key] for key in ("total_length", "offset", "duration")]
        _, indices = get_relevant_lyric_tokens(full, row["n_tokens"], *lengths)
        check.equal(f"start from ints {lengths}", indices[0], row["start_from_ints"])
        _, indices = get_relevant_lyric_tokens(full, row["n_tokens"], *torch.tensor(lengths))
        check.equal(f"start from tensors {lengths}", indices[0], row["start_from_tensors"])


@case("labels_labeller*")
def labeller(data: dict[str, Any], check: Check) -> None:
    for version, expected in data["outputs"].items():
        if version == "empty":
            _empty(expected, check)
            continue
        v3 = version.startswith("v3")
        sizes = (expected["max_genre_words"], expected["n_tokens"], expected["sample_length"])
        made = Labeller(*sizes, v3=v3, **tables("v3" if v3 else "v2"))
        good = []
        for row in expected["rows"]:
            meta = row["meta"]
            what = f"{version} {meta['artist']!r} {meta['genre']!r}"
            if row["raises"]:
                check.raises(what, lambda made=made, meta=meta: made.get_label(**meta), ERRORS)
                continue
            good.append(meta)
            label = made.get_label(**meta)
            check.equal(f"{what} y", label["y"], row["y"])
            check.equal(f"{what} info", label["info"], row["info"])
            check.equal(f"{what} describe", made.describe_label(label["y"]), row["describe"])
        y = expected["y_from_ids"].tolist()
        genres = [i for i in y[4 : 4 + sizes[0]] if i >= 0]
        row_y = made.get_y_from_ids(y[3], genres, y[4 + sizes[0] :], y[0], y[1])
        check.equal(f"{version} y_from_ids", row_y, expected["y_from_ids"])
        batch = made.get_batch_labels(good, "cpu")
        check.equal(f"{version} batch_y", batch["y"], expected["batch_y"])
        moved = batch["y"].clone()
        moved[:, 1] += 1000
        indices = made.set_y_lyric_tokens(moved, batch)
        check.equal(f"{version} after_window_y", moved, expected["after_window_y"])
        check.equal(f"{version} after_window_indices", indices, expected["after_window_indices"])


def _empty(expected: dict[str, Any], check: Check) -> None:
    made = EmptyLabeller()
    label = made.get_label()
    check.equal("empty y", label["y"], expected["y"])
    check.equal("empty info", label["info"], expected["info"])
    batch = made.get_batch_labels([{}] * len(expected["batch_info"]), "cpu")
    check.equal("empty batch_y", batch["y"], expected["batch_y"])
    check.equal("empty batch_info", batch["info"], expected["batch_info"])


@case("labels_starts*")
def starts(data: dict[str, Any], check: Check) -> None:
    from jukebox.utils.sample_utils import get_starts, split_batch

    for row in data["outputs"]["rows"]:
        given = (row["total_length"], row["n_ctx"], row["hop_length"])
        check.equal(f"starts {given}", get_starts(*given), row["starts"])
    for row in data["outputs"]["split_batch"]:
        n, split = row["n"], row["split"]
        parts = split_batch(torch.arange(n), n, split)
        check.equal(f"split {n} by {split}", [len(part) for part in parts], row["sizes"])
        check.equal(f"split {n} by {split}, order", torch.cat(parts), torch.arange(n))
        check.equal(f"split None by {split}", len(split_batch(None, n, split)), row["none_len"])
        lists = split_batch([torch.arange(n)] * 2, n, split)
        check.equal(f"split lists of {n} by {split}", len(lists), row["list_len"])


@case("labels_dataset_index*")
def dataset_index(data: dict[str, Any], check: Check) -> None:
    from jukebox.data.song_index import SongIndex, choose_songs, split_sizes

    for n, result in enumerate(data["outputs"]["results"]):
        cfg = result["cfg"]
        kept = choose_songs(
            [d / cfg["sr"] for d in cfg["durations"]],
            cfg["sample_length"] / cfg["sr"],
            cfg["min_duration"],
            cfg["max_duration"],
        )
        check.equal(f"{n} kept", kept, result["kept"])
        lengths = [int(cfg["durations"][i]) for i in kept]
        check.equal(f"{n} durations", lengths, result["durations"])
        index = SongIndex(lengths, cfg["sample_length"])
        check.equal(f"{n} length", len(index), result["length"])
        rows = [(item, 0, song, offset, 0) for item, song, offset in result["items_noshift"]]
        for item, shift, song, offset, raised in [*rows, *result["items_shift"]]:
            what = f"{n} item {item} shift {shift}"
            # Half of an odd chunk back from the end of a song is one sample too few: the reference fails there, or
            # reads past the end, and ours moves back by one more.
            if raised or offset + cfg["sample_length"] > lengths[int(song)]:
                check.equal(what, _fits_or_fails(index, item, shift, lengths, cfg["sample_length"]), True)
            else:
                check.equal(what, list(index.locate(item, shift)), [song, offset])
        for fraction, sizes in result["train_test"].items():
            check.equal(f"{n} split at {fraction}", list(split_sizes(len(index), float(fraction))), sizes)


def _fits_or_fails(index: Any, item: int, shift: int, lengths: list[int], sample_length: int) -> bool:
    try:
        song, offset = index.locate(item, shift)
    except (IndexError, *ERRORS):
        return True
    return 0 <= offset <= lengths[song] - sample_length
