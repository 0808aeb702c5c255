"""How one level is sampled: how tokens are drawn, in which type, and how much runs at a time.

`LevelOptions` is made where flags are read and goes whole to the prior. Notebooks and files have the same as plain
dicts, the `sampling_kwargs`; they are read and written here.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from jukebox.prior import logits
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import number, per_level, whole
from jukebox.utils.precision import dtype_name, dtype_of

SamplingKwargs = MutableMapping[str, Any]
DEFAULTS = {"temp": 0.99}  # of flags; the others are those of `SamplingOptions`
OLDEST = ("temp", "top_k", "top_p")  # drawing options that every saved run has


@dataclass
class LevelOptions:
    """How one level is sampled.

    Attributes:
        drawing: how tokens are drawn.
        dtype: type of the prior's arithmetic.
        chunk_size: most given tokens in one pass; None takes as many as memory allows.
        max_batch_size: songs at a time, None for all. This and the chunk shrink when memory runs out.
        seed: with it, every draw is a function of seed, song, level and position; None uses torch's generator.
        songs: numbers of the songs in the whole run; None counts them from 0.
        engine: who draws, see `pick_engine` of prior/engine.py.
        made_by: the engines that drew the level's tokens so far, in this order.
        more: entries of a notebook's `sampling_kwargs` that nothing here reads; they are kept.
    """

    drawing: logits.SamplingOptions = field(default_factory=logits.SamplingOptions)
    dtype: torch.dtype = torch.float32
    chunk_size: int | None = None
    max_batch_size: int | None = None
    seed: int | None = None
    songs: Sequence[int] | None = None
    engine: str = "auto"
    made_by: list[str] = field(default_factory=list)
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> LevelOptions:
        """Reads `sampling_kwargs`: drawing options, fp16, dtype (its name), and the rest by its name here."""
        plain: dict[str, Any] = {key: kwargs.get(key) for key in ("chunk_size", "max_batch_size", "seed", "songs")}
        drawing = {entry.name for entry in fields(logits.SamplingOptions)}
        known = {*plain, *drawing, "fp16", "dtype", "engine", "made_by"}
        more = {key: value for key, value in kwargs.items() if key not in known}
        read = cls(logits.SamplingOptions.pick(kwargs), dtype_of(kwargs), **plain, more=more)
        read.engine = kwargs.get("engine") or "auto"
        read.made_by = [str(name) for name in kwargs.get("made_by") or ()]
        return read

    def kwargs(self) -> dict[str, Any]:
        """The same as plain values; drawing options other than the temperature only if they are not the default."""
        values: dict[str, Any] = {
            **self.more,
            "temp": self.drawing.temp,
            "fp16": self.dtype == torch.half,
            "chunk_size": self.chunk_size,
            "max_batch_size": self.max_batch_size,
        }
        if self.seed is not None:
            values["seed"] = self.seed
        if self.songs is not None:
            values["songs"] = list(self.songs)
        if self.engine != "auto":
            values["engine"] = self.engine
        if self.made_by:
            values["made_by"] = list(self.made_by)
        for entry in fields(self.drawing):
            value = getattr(self.drawing, entry.name)
            if value != entry.default:
                values[entry.name] = value
        return {**values, **({"dtype": dtype_name(self.dtype)} if self.dtype == torch.bfloat16 else {})}

    def drew(self, engine: str) -> None:
        """Notes the engine that drew some tokens: it draws from now on."""
        self.engine = engine
        if engine != "auto" and engine not in self.made_by[-1:]:
            self.made_by.append(engine)

    def take_sizes(self, kwargs: Mapping[str, Any]) -> None:
        """Takes the batch and the chunk that plain options ended with."""
        self.max_batch_size, self.chunk_size = kwargs.get("max_batch_size"), kwargs.get("chunk_size")


def read_drawing(flags: Mapping[str, Any], levels: int) -> list[logits.SamplingOptions]:
    """The drawing options of each level, low to high: one flag for each field, with one value or one per level.

    Raises:
        UserError: a value of the wrong type or out of range.
    """
    given: dict[str, list[Any]] = {}
    for entry in fields(logits.SamplingOptions):
        read = whole if isinstance(entry.default, int) else number
        value = flags.get(entry.name, DEFAULTS.get(entry.name, entry.default))
        given[entry.name] = [read(entry.name, one) for one in per_level(entry.name, value, levels)]
    if any(k and p for k, p in zip(given["top_k"], given["top_p"], strict=True)):
        raise UserError(
            "--top_k and --top_p exclude each other: leave one out, or set it to 0 for the levels that use the other"
        )
    try:
        return [
            logits.SamplingOptions(**{name: values[level] for name, values in given.items()}) for level in range(levels)
        ]
    except ValueError as error:
        raise UserError(f"--{error}".replace("use top_k", "use --top_k")) from error


def drawing_settings(drawing: Sequence[logits.SamplingOptions]) -> dict[str, list[Any]]:
    """The drawing options of all levels by name; those that saved runs may lack only if they are not the default."""
    values = {entry.name: [getattr(one, entry.name) for one in drawing] for entry in fields(drawing[0])}
    defaults = {entry.name: entry.default for entry in fields(drawing[0])}
    return {
        name: chosen
        for name, chosen in values.items()
        if name in OLDEST or any(value != defaults[name] for value in chosen)
    }
