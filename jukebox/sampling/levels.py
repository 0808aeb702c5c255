"""One run over the levels, top first: make the codes, decode them, write what the user gets.

    codes (windows.py) -> alignment, if the model reads lyrics -> audio -> DIR/level_L: items, data.pth.tar, page

Each level is written as soon as it is made, and the state of the run after every window. Only the prior of the level
at work is on the device. Change here what a level writes; the page's content is decided in `save_html.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jukebox.hparams import Hyperparams
from jukebox.loaders import LazyPrior, Prior, aligns_lyrics, use_prior
from jukebox.prior.engine import engine_used
from jukebox.prior.prior import SimplePrior
from jukebox.sampling.alignment import get_alignment
from jukebox.sampling.options import LevelOptions, SamplingKwargs
from jukebox.sampling.prompts import starting_lengths
from jukebox.sampling.record import TAG, file_name, record_of
from jukebox.sampling.report import Bars, Silent
from jukebox.sampling.settings import Settings
from jukebox.sampling.state import RunState, uninterrupted
from jukebox.sampling.windows import keep_sizes, sample_level, walk_level
from jukebox.save_html import save_html
from jukebox.utils.files import atomic_write, link_or_copy, load_torch, save_torch
from jukebox.utils.flag_values import FORMATS
from jukebox.utils.json_text import read_json
from jukebox.utils.memory import enough_memory
from jukebox.utils.outside import current
from jukebox.utils.precision import dtype_name
from jukebox.utils.read_ahead import read_ahead
from jukebox.utils.sample_utils import schedule

DATA_FILE = "data.pth.tar"
Keep = Callable[[int, dict[str, Any]], None]


def run_levels(
    zs: Sequence[Tensor],
    labels: Sequence[Any],
    options: Sequence[LevelOptions | SamplingKwargs],
    priors: Sequence[Prior | None],
    sample_levels: Sequence[int],
    hps: Hyperparams,
    state: RunState | None = None,
    alignments: list[np.ndarray] | None = None,
    report: Silent | None = None,
    keep: Keep | None = None,
) -> list[Tensor]:
    """Makes levels from the highest down and writes each to `hps.name/level_L`, or hands it to `keep`.

    Args:
        zs: codes per level, low to high, [N, T_level]; empty, or prompts.
        labels, options, priors: per level; entries of levels that are not made may be None. Options may be the
            `sampling_kwargs` of notebooks, which keep what fitted the memory.
        sample_levels: levels to make.
        hps: `name`, `sample_length` (samples), `hop_fraction`, `levels`, `sr`; what else is in it goes to the page.
        state: kept up to date after every window, and its finished levels are not made again.
        alignments: of the top level, if they are known already.
        report: told about progress; None draws bars.
        keep: called with each level and its `level_data` instead of writing it.

    Returns:
        zs with all levels made.
    """
    read = [given if isinstance(given, LevelOptions) else LevelOptions.from_kwargs(given or {}) for given in options]
    run = LevelMaker(list(zs), labels, read, priors, hps, state, alignments, report or Bars(), keep)
    try:
        run.make(sample_levels)
    finally:
        for given, used in zip(options, read, strict=True):
            if isinstance(given, MutableMapping):
                keep_sizes(given, used)
    return run.zs


@dataclass
class LevelMaker:
    """Makes levels; attributes as in `run_levels`. While it works, `zs` grow and `alignments` are found."""

    zs: list[Tensor]
    labels: Sequence[Any]
    options: Sequence[LevelOptions]
    priors: Sequence[Prior | None]
    hps: Hyperparams
    state: RunState | None
    alignments: list[np.ndarray] | None
    report: Silent
    keep: Keep | None = None

    def make(self, sample_levels: Sequence[int]) -> None:
        """Makes and writes levels from the highest down, except those that are finished."""
        done = [] if self.state is None else self.state.done
        left = [level for level in sorted(sample_levels, reverse=True) if level not in done]
        for level, following in itertools.zip_longest(left, left[1:]):
            self._level(level, following)

    def _level(self, level: int, following: int | None) -> None:
        device, top = self.zs[level].device, len(self.zs) - 1
        advice = self._elsewhere(level, device)
        own, aligning = self.priors[level], self.priors[top]
        assert own is not None
        if level < top and self.alignments is None and aligning is not None and aligns_lyrics(aligning):
            with enough_memory("aligning the lyrics", advice):
                use_prior(aligning, device, self._align)
        with enough_memory(f"loading or running the prior of level {level}", advice):
            use_prior(own, device, lambda prior: self._make(prior, level, following))
        with enough_memory(f"decoding level {level}", advice):  # the prior has gone by now
            x = own.decode(self.zs[level:], start_level=level, bs_chunks=max(1, self.zs[level].shape[0]))
        if self.hps.get("engine"):
            self._note_engine(level)
        data = level_data(x, self.zs, self.labels, self.options, self.alignments, self.hps)
        if self.keep is not None:
            self.keep(level, data)
            return
        folder = Path(self.hps.name) / f"level_{level}"
        with uninterrupted():
            write_level(folder, data, self.hps)
            if self.state is not None:
                self.state.done.append(level)
                self._save()
        self.report.message(f"level {level} is written to {folder}")

    def _elsewhere(self, level: int, device: torch.device) -> str:
        """Where there may be more memory, in the type that the run was started in."""
        go_on = "try again" if self.state is None else "what is made is saved, continue with --resume"
        if device.type == "cpu":
            return f"{go_on} on a machine with more memory, or when other programs are closed"
        dtype = dtype_name(self.options[level].dtype)
        return f"{go_on} when {device} is free of other work, or with --device=cpu --dtype={dtype}"

    def _make(self, prior: SimplePrior, level: int, following: int | None) -> None:
        """Makes the codes of a level, and of the top level the alignments; the next level's file is read meanwhile."""
        ahead = None if following is None else self.priors[following]
        with read_ahead(ahead.weights_file() if isinstance(ahead, LazyPrior) else ""):
            self._make_codes(prior, level)
        if level == len(self.zs) - 1 and self.alignments is None:
            self._align(prior)

    def _make_codes(self, prior: SimplePrior, level: int) -> None:
        total = self.hps.sample_length // prior.raw_to_tokens
        hop = int(self.hps.hop_fraction[level] * prior.n_ctx)
        n, known = self.zs[level].shape
        windows = schedule(total, prior.n_ctx, hop, known)
        labels, options = self.labels[level], self.options[level]
        make = current("jukebox.sample", sample_level)
        if make is not sample_level:  # a user's function makes the levels
            kwargs = options.kwargs()
            self.zs = make(self.zs, labels, kwargs, level, prior, total, hop, self.hps)
            options.take_sizes(kwargs)
            return
        self.report.begin(level, sum(window.new for window in windows) * n, len(windows))
        try:
            walk_level(
                self.zs,
                labels,
                options,
                level,
                prior,
                total,
                hop,
                self._after_window,
                self.report.advance,
                self.hps,
            )
        finally:
            self.report.end()

    def _note_engine(self, level: int) -> None:
        """Notes in `hps` which engines made the tokens of the levels so far, for the page and to make songs again."""
        names = dict.fromkeys(name for options in reversed(self.options[level:]) for name in options.made_by)
        if names:
            self.hps.engine = ", then ".join(names)
            self.hps.again = {**(self.hps.get("again") or {}), "engine": self.options[level].engine}

    def _after_window(self, zs: list[Tensor]) -> None:
        self.zs = zs
        for options in self.options:  # one that took over draws the levels to come, in a resumed run too
            options.engine = engine_used(options.engine)
        self._save()
        self.report.window_done()

    def _save(self) -> None:
        if self.state is not None:
            self.state.zs = self.zs
            self.state.save()

    def _align(self, prior: SimplePrior) -> None:
        dtype = self.options[-1].dtype
        if aligns_lyrics(prior) and self.labels[-1] is not None:
            labels = self.labels[-1]
            self.alignments = get_alignment(None, self.zs, labels, prior, False, self.hps, dtype, one_window=True)


def level_data(
    x: Tensor,
    zs: Sequence[Tensor],
    labels: Sequence[Any],
    options: Sequence[LevelOptions],
    alignments: list[np.ndarray] | None,
    hps: Hyperparams,
) -> dict[str, Any]:
    """What `data.pth.tar` holds of a level: audio x [N, T, 1] decoded from it, and the rest as in `run_levels`."""
    return {
        "zs": [z.cpu() for z in zs],
        "labels": plain(labels),
        "sampling_kwargs": plain([one.kwargs() for one in options]),
        "x": x.detach().float().cpu(),
        "alignments": None if alignments is None else [torch.from_numpy(a) for a in alignments],
        "hps": plain(dict(hps)) if isinstance(hps, Mapping) else {},
    }


def labels_of(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The labels of a level's songs: those of the highest level that has some."""
    return next((labels for labels in reversed(data["labels"]) if labels is not None), None)


def write_level(folder: Path, data: dict[str, Any], hps: object) -> None:
    """Writes a folder: audio of each item, data.pth.tar, and the page last.

    Args:
        data: see `level_data`.
        hps: for the page.
    """
    from jukebox.utils.audio.write import write_audio

    own, suffix = labels_of(data), _get(hps, "format") or "wav"
    for i, audio in enumerate(data["x"]):
        info = own["info"][i] if own is not None and i < len(own.get("info", [])) else {}
        settings = hps if isinstance(hps, Mapping) else {}
        record, path = record_of(info, settings, i), folder / f"item_{i}.{suffix}"
        rate = 1000 * int(settings.get("bit_rate") or 0) if suffix == "mp3" else 0
        write_audio(path, audio, _get(hps, "sr"), tags(info, settings, i), rate or None)
        _name_song(path, record)
        for other in {*FORMATS} - {suffix}:  # of an earlier run into this folder
            (folder / f"item_{i}.{other}").unlink(missing_ok=True)
    save_torch(data, folder / DATA_FILE)
    save_html(folder, data["x"], data["zs"], own, data["alignments"], hps)


NAMED = "songs"  # the folder of a level that holds its items by their songs' names


def _name_song(path: Path, record: Mapping[str, Any]) -> None:
    """Gives an item its song's name as well, and leaves its record; a file of that name that is not ours stays.

    Files by name have a folder of their own: programs take all audio of a level as its items.
    """
    named = path.parent / NAMED / f"{file_name(record['title'])}{path.suffix}"
    taken = path.with_suffix(".json")
    _remove_named(taken)
    if not named.exists():
        named.parent.mkdir(exist_ok=True)
        link_or_copy(path, named)
        record = {**record, "file": f"{NAMED}/{named.name}"}
    with atomic_write(taken, "w") as file:
        file.write(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _remove_named(record: Path) -> None:
    """Removes the file that an item's record names, which is the item's audio by another name."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        name = read_json(record)["file"]
        named = record.parent / NAMED / Path(name).name
        if name == f"{NAMED}/{named.name}" and named.suffix.lstrip(".") in FORMATS:
            named.unlink()


# What `write_level` and the page leave in a level's folder.
_FORMAT = "|".join(FORMATS)
_OURS = re.compile(
    rf"index\.html|data\.pth\.tar|item_\d+\.({_FORMAT}|json)|"
    rf"item_\d+/(audio\.({_FORMAT})|lyrics\.json|align\.json|align\.png|lyrics\.lrc)"
)


def remove_levels(folder: Path, inputs: Collection[str]) -> None:
    """Removes what the levels of an earlier run have left in a folder, and nothing else.

    Args:
        folder: of the run.
        inputs: files that the new run reads; a level that holds one of them is not touched.
    """
    read = [Path(name).resolve() for name in inputs]
    for level in folder.glob("level_*"):
        place = level.resolve()
        if not re.fullmatch(r"level_\d+", level.name) or any(place in (path, *path.parents) for path in read):
            continue
        for record in level.glob("item_*.json"):
            _remove_named(record)
        for file in [*level.glob("*"), *level.glob("item_*/*")]:
            if file.is_file() and _OURS.fullmatch(file.relative_to(level).as_posix()):
                file.unlink()
        for emptied in [*level.glob("item_*"), level / NAMED, level]:
            with contextlib.suppress(OSError):
                emptied.rmdir()


def tags(info: Mapping[str, Any], hps: Mapping[str, Any], item: int = 0) -> dict[str, str]:
    """What an item's file says about itself: title, labels, and what makes it again."""
    record = {key: value for key, value in record_of(info, hps, item).items() if key != "lyrics"}
    words = {key: info.get(key) for key in ("artist", "genre", "lyrics")}
    said = {key: value for key, value in words.items() if isinstance(value, str) and value and value != "n/a"}
    model, seed = _get(hps, "model"), _get(hps, "seed")
    made = "" if model is None else f"Jukebox, model {model}" + ("" if seed is None else f", seed {seed}")
    noted = {TAG: json.dumps(record, ensure_ascii=False)} if hps.get("again") else {}
    return {"title": record["title"], **said, **({"comment": made} if made else {}), **noted}


def saved_alignments(folder: Path) -> list[np.ndarray] | None:
    """The alignments that an earlier level of a run left in its data file."""
    path = folder / DATA_FILE
    found = load_torch(path).get("alignments") if path.is_file() else None
    return None if found is None else [a.numpy() for a in found]


def given_alignments(settings: Settings, songs: range, labels: list[Any]) -> list[np.ndarray] | None:
    """Alignments of the songs that are upsampled, if they came with their codes."""
    if settings.mode != "upsample" or labels[-1] is None or settings.codes is None:
        return None
    saved = settings.codes["alignments"]
    if not isinstance(saved, (list, tuple)) or not saved or not all(isinstance(a, torch.Tensor) for a in saved):
        return None
    chosen = [saved[song % len(saved)].numpy() for song in songs]
    rows = starting_lengths(settings)[-1]
    shapes = [(rows, len(info["full_tokens"])) for info in labels[-1]["info"]]
    return chosen if [a.shape for a in chosen] == shapes else None


def plain(value: Any) -> Any:
    """A copy as `torch.load(weights_only=True)` reads it: plain types, tensors on the CPU, other things as text."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _get(hps: object, key: str) -> Any:
    return hps.get(key) if isinstance(hps, Mapping) else getattr(hps, key, None)
