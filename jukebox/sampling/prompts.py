"""What a run begins with: audio prompts, or codes of an earlier run.

Everything here is read and checked before any model is loaded. Change here what may be given and how it is tiled over
the songs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jukebox.hparams import Hyperparams, take_hparams
from jukebox.loaders import LazyPrior, Prior
from jukebox.sampling.report import Silent
from jukebox.sampling.settings import Settings
from jukebox.utils.dist_utils import given_device
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch
from jukebox.utils.flag_values import DAMAGED, find_files
from jukebox.utils.plural import counted


def tile_songs(items: Sequence[Any], hps: Hyperparams) -> list[Any]:
    """One entry for each song of this process: a short list starts over, and song numbers count over all processes."""
    songs = take_hparams(hps, "songs").get("songs")
    return [items[song % len(items)] for song in (range(hps.n_samples) if songs is None else songs)]


def split_prompts(prompts: str | Sequence[Any]) -> list[Any]:
    """Prompts, as a list or as file names separated by commas; a name that exists as it is is not cut at its commas.

    Raises:
        UserError: no such file, or samples that are not [T] or [T, channels] or not finite.
    """
    from jukebox.utils.audio.read import mono

    found: list[Any] = []
    for prompt in [prompts] if isinstance(prompts, str) else prompts:
        found += [mono(prompt)] if hasattr(prompt, "shape") else find_files("audio_file", [prompt])
    return found


def load_prompts(audio_files: str | Sequence[Any], duration: int, hps: Hyperparams) -> Tensor:
    """Reads the beginnings of audio files as prompts.

    Files of any format, rate and number of channels are resampled and mixed to mono. Silence is put in front of a file
    that is shorter than `duration`, so that its end meets the music that continues it. A warning says so.

    Args:
        audio_files: a list of files or of samples [T] or [T, channels] at `hps.sr`, or names of files separated by
            commas; tiled to `hps.n_samples`.
        duration: samples to read of each.
        hps: `sr` in Hz and `n_samples`; with `songs`, the numbers of the songs of this process; `damaged` as for
            `load_audio`.

    Returns:
        float32 [n_samples, duration, 1], on the device that `setup_dist_from_mpi` gave, else on the CPU.

    Raises:
        UserError: a file that is not there or cannot be decoded.
    """
    given = split_prompts(audio_files)
    if not given:
        raise UserError("--audio_file names no file: give one or more, separated by commas")
    wanted = tile_songs(range(len(given)), hps)
    damaged = take_hparams(hps, "damaged").get("damaged", DAMAGED[0])
    prompts = {number: _load_prompt(given[number], duration, hps.sr, damaged) for number in dict.fromkeys(wanted)}
    return torch.stack([prompts[number] for number in wanted]).unsqueeze(-1).to(given_device())


def _load_prompt(prompt: Any, duration: int, sr: int, damaged: str) -> Tensor:
    from jukebox.utils.audio.index import get_duration_sec
    from jukebox.utils.audio.read import read_samples

    if not isinstance(prompt, str):
        name, audio = "a prompt", prompt[:duration]
    else:
        name, long_enough = prompt, get_duration_sec(prompt, cache=False) * sr >= duration
        wanted, notes = duration if long_enough else None, list[str]()
        audio = read_samples(name, sr, duration=wanted, channels=1, damaged=damaged, tell=notes.append)[0, :duration]
        for note in notes:
            warnings.warn(note, stacklevel=4)
    missing = duration - audio.shape[0]
    if missing > 0:
        warnings.warn(
            f"{name} is {audio.shape[0] / sr:.2f} s long: {missing / sr:.2f} s of silence were put in front of it, "
            f"to fill the prompt of {duration / sr:.2f} s",
            stacklevel=4,
        )
    return torch.nn.functional.pad(torch.from_numpy(audio), (max(0, missing), 0))


def starting_lengths(settings: Settings) -> list[int]:
    """Tokens per level that prompts or saved codes will give, known before they are encoded."""
    if settings.mode == "primed":
        assert settings.prompt_length is not None
        return [settings.prompt_length // per_code for per_code in settings.model.samples_per_code]
    if settings.codes is None:
        return [0] * len(settings.model.levels)
    have = [z.shape[1] for z in settings.codes["zs"]]
    if settings.prompt_length is None:
        return have
    return [
        min(n, settings.prompt_length // per_code)
        for n, per_code in zip(have, settings.model.samples_per_code, strict=True)
    ]


def load_inputs(settings: Settings, hps: Hyperparams, report: Silent) -> Tensor | None:
    """Audio prompts [N, T, 1], or None; read before any model is."""
    if settings.prompt_length is None or settings.mode != "primed":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prompts = load_prompts(settings.prompts, settings.prompt_length, hps)
    for warning in caught:
        report.warn(str(warning.message))
    return prompts


def starting_codes(
    settings: Settings, prompts: Tensor | None, priors: Sequence[Prior | None], hps: Hyperparams
) -> list[Tensor]:
    """Codes per level that a run begins with, [N, T_level]."""
    if prompts is not None:
        return encode_prompts(prompts, priors)
    if settings.codes is not None:
        return cut_codes(settings.codes["zs"], settings.model.samples_per_code, settings.prompt_length, hps)
    return [torch.zeros(hps.n_samples, 0, dtype=torch.long) for _ in priors]


def encode_prompts(x: Tensor, priors: Sequence[Prior | None], labels: Sequence[Any] = ()) -> list[Tensor]:
    """Codes of audio [N, T, 1] at every level, low to high, by the VQ-VAE that belongs to the priors."""
    top = priors[-1]
    assert top is not None
    x = x[:, : x.shape[1] // top.raw_to_tokens * top.raw_to_tokens]
    x = x.mean(dim=2, keepdim=True).to(device_of(priors, labels))
    vqvae = top._vqvae if isinstance(top, LazyPrior) else top
    with torch.no_grad():
        return list(vqvae.encode(x, start_level=0, end_level=len(priors), bs_chunks=x.shape[0]))


def device_of(priors: Sequence[Prior | None], labels: Sequence[Any]) -> torch.device:
    """Where codes belong: with the labels or the weights, on the processor only where both are."""
    devices = [entry["y"].device for entry in labels if entry is not None]
    devices += [prior.device for prior in priors if prior is not None]
    return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))


def shown(codes_file: Any) -> str:
    """How a source of codes is called in messages."""
    return "songs" if isinstance(codes_file, Mapping) else str(codes_file)


def read_codes(codes_file: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    """Reads and checks a `data.pth.tar` of an earlier run, or what it holds; a bare list of codes is taken as its `zs`.

    Raises:
        UserError: no such file, or it holds no codes of songs, or labels that are none.
    """
    instead = "give the data.pth.tar of an earlier run, such as RUN/level_2/data.pth.tar"
    path, data = Path(shown(codes_file)), codes_file if isinstance(codes_file, Mapping) else {}
    if not isinstance(codes_file, Mapping):
        if path.is_dir() and (path / "data.pth.tar").is_file():
            path = path / "data.pth.tar"
        if not path.is_file():
            raise UserError(f"--codes_file={path}: there is no such file; {instead}")
        try:
            data = load_torch(path)
        except UserError as error:
            raise UserError(f"--codes_file: {error}") from error
    if isinstance(data, (list, tuple)):
        data = {"zs": list(data)}
    zs = data.get("zs") if isinstance(data, Mapping) else None
    if not isinstance(zs, (list, tuple)) or not zs or not all(isinstance(z, Tensor) and z.dim() == 2 for z in zs):
        raise UserError(f"--codes_file={path} holds no codes: {instead}")
    counts = {z.shape[0] for z in zs}
    odd = next((z.dtype for z in zs if z.is_floating_point() or z.is_complex() or z.dtype == torch.bool), None)
    if odd is not None:
        raise UserError(f"--codes_file={path} holds codes of type {odd}, not whole numbers: {instead}")
    if len(counts) > 1 or 0 in counts:
        number = ", ".join(str(z.shape[0]) for z in zs)
        raise UserError(f"--codes_file={path} holds {number} songs at its levels, not one number from 1 up: {instead}")
    _check_labels(path, data.get("labels"), zs[0].shape[0])
    return data


def _check_labels(path: Path, labels: Any, songs: int) -> None:
    """Refuses labels that are not as runs save them: per level None or {y, info}, for that many songs."""
    for entry in labels if isinstance(labels, (list, tuple)) else [labels]:
        if entry is None:
            continue
        fine = isinstance(entry, dict)
        info, y = (entry.get("info"), entry.get("y")) if fine else (None, None)
        fine = fine and (not info or (isinstance(info, (list, tuple)) and all(isinstance(i, dict) for i in info)))
        fine = fine and (not info or len(info) == songs)
        if y is not None:
            fine = fine and isinstance(y, Tensor) and y.dim() == 2 and y.shape[0] == songs
            fine = fine and not (y.is_floating_point() or y.is_complex())
        if not fine:
            raise UserError(
                f"--codes_file={path} holds labels that do not belong to its {counted(songs, 'song')}: give the file "
                "as a run left it, or without labels"
            )


def check_codes(codes_file: str, zs: Sequence[Tensor], levels: int, bins: int, model: str) -> None:
    """Refuses codes that are not of a model with that many levels and codes.

    Raises:
        UserError: what does not fit.
    """
    if len(zs) != levels:
        raise UserError(f"--codes_file={codes_file} holds codes of {len(zs)} levels, model {model} has {levels}")
    if zs[-1].shape[1] == 0:
        raise UserError(f"--codes_file={codes_file} holds no codes of the top level: take the file of a finished level")
    for code in (min(int(z.min()) for z in zs if z.numel()), max(int(z.max()) for z in zs if z.numel())):
        if not 0 <= code < bins:
            raise UserError(
                f"--codes_file={codes_file} holds code {code}, model {model} knows 0 to {bins - 1}: "
                "use the model that made the file"
            )


def load_codes(
    codes_file: str | os.PathLike[str], duration: int | None, priors: Sequence[Prior | None] | None, hps: Hyperparams
) -> list[Tensor]:
    """Reads the codes of an earlier run, to continue or to upsample them.

    Args:
        codes_file: its `data.pth.tar`.
        duration: samples to keep; None keeps all. Cut down to whole tokens of each level.
        priors: of all levels, low to high; if no duration is given, entries may be None, and so may all of it.
        hps: `n_samples`, to which the songs of the file are tiled.

    Returns:
        Codes per level, low to high, int64 [n_samples, T_level], on the device of the top prior, else on that
        which `setup_dist_from_mpi` gave.

    Raises:
        UserError: codes of another number of levels, or shorter than `duration`.
    """
    zs = read_codes(codes_file)["zs"]
    priors = priors or [None] * len(zs)
    if len(zs) != len(priors):
        raise UserError(f"--codes_file={codes_file} holds codes of {len(zs)} levels, the model has {len(priors)}")
    per_code = [1 if prior is None else prior.raw_to_tokens for prior in priors]
    have = zs[-1].shape[1] * per_code[-1]
    if duration is not None and have < duration:
        raise UserError(f"--codes_file={codes_file} holds {have} samples, not {duration}: ask for a shorter prompt")
    device = getattr(priors[-1], "device", given_device())
    return [z.to(device) for z in cut_codes(zs, per_code, duration, hps)]


def cut_codes(
    zs: Sequence[Tensor], samples_per_code: Sequence[int], duration: int | None, hps: Hyperparams
) -> list[Tensor]:
    """The first `duration` samples of codes with these samples per token, tiled to the songs of this process."""
    rows = tile_songs(range(zs[-1].shape[0]), hps)
    return [
        z[rows, : None if duration is None else duration // per_code].long()
        for z, per_code in zip(zs, samples_per_code, strict=True)
    ]
