"""What a run does, in samples and tokens, per level. `read_settings` of `flags.py` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jukebox.hparams import Hyperparams
from jukebox.loaders import Model
from jukebox.prior.logits import SamplingOptions
from jukebox.sampling.options import LevelOptions, drawing_settings
from jukebox.sampling.record import flags_to_repeat
from jukebox.utils.precision import torch_dtype

MODES = ("ancestral", "primed", "continue", "upsample")


@dataclass(frozen=True)
class Settings:
    """What a run does. Lengths are in raw samples; lists are per level, low to high.

    Attributes:
        sample_levels: levels to make, in ascending order.
        sample_length: of a finished song.
        prompt_length: of what is given; None keeps all of saved codes.
        prompts: audio files, or samples; codes: what `read_codes` gives of `codes_file`.
        metas: for each song of the whole run artist, genre, lyrics, total_length, offset.
        songs: numbers of the songs that this process makes.
        batch, chunk: None: chosen from free memory.
        engine: who draws tokens, see `pick_engine` of prior/engine.py.
        tf32: whether products in float32 may round to TF32.
        notices: lines to tell the user; remarks: how lengths were fitted to the model.
        must_know: artists and genres that were asked for, which the model has to know.
    """

    model: Model
    name: str
    mode: str
    sample_levels: list[int]
    sample_length: int
    prompt_length: int | None
    prompts: list[Any]
    codes_file: str
    codes: dict[str, Any] | None
    hop_fraction: list[float]
    metas: list[dict[str, Any]]
    n_samples: int
    drawing: list[SamplingOptions]
    seed: int
    batch: list[int | None]
    chunk: list[int | None]
    device: str
    dtype: str
    engine: str
    tf32: bool
    format: str
    notices: list[str]
    remarks: list[str]
    must_know: list[tuple[str, str]] = field(default_factory=list)

    def totals(self) -> list[int]:
        """Tokens of each level in a finished song."""
        return [self.sample_length // per_code for per_code in self.model.samples_per_code]

    def new_per_window(self) -> list[int]:
        """New tokens of a usual window of each level."""
        return [
            0 if level is None else int(fraction * level.n_ctx)
            for level, fraction in zip(self.model.levels, self.hop_fraction, strict=True)
        ]

    def fingerprint(self, songs: range) -> dict[str, Any]:
        """Plain values that the tokens of some songs depend on; a resumed run must have equal ones."""
        return {
            "model": self.model.name,
            "mode": self.mode,
            "sample_length": self.sample_length,
            "prompt_length": self.prompt_length,
            "audio_file": list(self.prompts),
            "codes_file": self.codes_file,
            "hop_fraction": list(self.hop_fraction),
            "metas": [dict(meta) for meta in self.metas],
            "n_samples": self.n_samples,
            **drawing_settings(self.drawing),
            "seed": self.seed,
            "dtype": self.dtype,
            **({"tf32": True} if self.tf32 else {}),
            **self.model.marks(self.sample_levels),
            "songs": list(songs),
        }

    def hps(self, folder: Path, songs: range, flags: Mapping[str, Any]) -> Hyperparams:
        """What the importable functions and the page read."""
        top = self.model.top
        asked = {
            key: value
            for key, value in flags.items()
            if key not in ("lyrics", "resume", "overwrite", "open", "dry_run")
        }
        return Hyperparams(
            asked,
            model=self.model.name,
            name=str(folder),
            mode=self.mode,
            sr=self.model.sr,
            levels=len(self.model.levels),
            sample_length=self.sample_length,
            sample_length_in_seconds=self.sample_length / self.model.sr,
            total_sample_length_in_seconds=self.metas[songs[0]]["total_length"] / self.model.sr,
            hop_fraction=list(self.hop_fraction),
            n_samples=len(songs),
            songs=list(songs),
            **drawing_settings(self.drawing),
            seed=self.seed,
            dtype=self.dtype,
            engine=self.engine,
            format=self.format,
            again=flags_to_repeat(
                flags, n_samples=self.n_samples, seed=self.seed, dtype=self.dtype, engine=self.engine
            ),
            alignment_shift=0 if top is None else int(top.hps.get("alignment_shift") or 0),
        )

    def level_options(self, songs: range, batch: Mapping[int, int]) -> list[LevelOptions]:
        """Options per level, low to high; `batch` says how many songs at a time for the levels that are made."""
        dtype = torch_dtype(self.dtype)
        return [
            LevelOptions(
                drawing, dtype, self.chunk[level], batch.get(level, len(songs)), self.seed, list(songs), self.engine
            )
            for level, drawing in enumerate(self.drawing)
        ]
