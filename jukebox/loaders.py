"""The model that --model names: what is known of it before any weight is read, and how its parts are loaded.

    --model=1b_lyrics                                  a key of MODELS
    --model=logs/my_prior                              a run: hparams and the VQ-VAE's place are in its checkpoint
    --model=logs/my_vqvae,logs/up_0,logs/my_prior      several runs or checkpoint files, in any order
    --model=1b_lyrics --weights_from=FOLDER            a key of MODELS, its weights in the Hugging Face layout
    --weights_from=FOLDER                              the same, with the hyper-parameters of FOLDER/config.json

`find_model` gives a `Model`, of plain numbers; `Model.prior(level)` a `LazyPrior` that is loaded when its turn comes.
Change here where models come from; how modules are built is in `make_models.py`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from jukebox.data.labels import EmptyLabeller, Labeller
from jukebox.hparams import Hyperparams, read_saved, setup_hparams
from jukebox.make_models import (
    MODELS,
    build_prior,
    half_matrices,
    load_checkpoint,
    make_labeller,
    make_prior,
    make_vqvae,
)
from jukebox.prior.prior import SimplePrior
from jukebox.transformer.patterns import LYRIC_KINDS, layer_kinds
from jukebox.utils.errors import UserError, did_you_mean
from jukebox.utils.levels import samples_per_code
from jukebox.utils.precision import matrix_dtype
from jukebox.utils.remote_utils import cache_path, is_released, is_remote
from jukebox.utils.run_files import find_checkpoint, runs_near
from jukebox.utils.torch_utils import empty_cache
from jukebox.vqvae.vqvae import VQVAE
from jukebox.weights.hub import weights_folder
from jukebox.weights.huggingface import is_folder, load_huggingface, part_path, read_config, split_part
from jukebox.weights.huggingface_config import config_hparams, differences

_HEAD, _TAIL = 1 << 16, 1 << 20  # bytes of a checkpoint that `weights_mark` reads
Result = TypeVar("Result")


@dataclass
class Level:
    """The prior of one level, by its hyper-parameters.

    Attributes:
        level: 0 is the finest.
        hps: of the prior, `restore_prior` set.
        samples_per_code: raw samples that one code represents.
        labels_state: what its checkpoint holds of its labeller, see `Labeller.state`; None: the released tables.
    """

    level: int
    hps: Hyperparams
    samples_per_code: int
    labels_state: dict[str, Any] | None = None

    @property
    def n_ctx(self) -> int:
        return self.hps.n_ctx

    @property
    def n_tokens(self) -> int:
        """Lyric characters of a window; 0 for a prior without lyrics."""
        return self.hps.n_tokens if self.hps.labels and self.hps.use_tokens else 0

    @property
    def sample_length(self) -> int:
        """Raw samples of one window."""
        return self.n_ctx * self.samples_per_code

    @cached_property
    def labeller(self) -> Labeller | EmptyLabeller:
        if self.labels_state:
            return Labeller.from_state({**self.labels_state, "sample_length": self.sample_length})
        return make_labeller(self.hps, self.sample_length)


@dataclass
class Model:
    """A VQ-VAE and its priors, by their hyper-parameters.

    Attributes:
        name: as it was asked for.
        vqvae_hps: of the VQ-VAE, `restore_vqvae` set.
        levels: per level, low to high; None if there is no prior.
        notices: lines to tell the user.
    """

    name: str
    vqvae_hps: Hyperparams
    levels: list[Level | None] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def sr(self) -> int:
        return self.vqvae_hps.sr

    @property
    def samples_per_code(self) -> list[int]:
        """Raw samples that one code represents, of each level."""
        return samples_per_code(self.vqvae_hps.strides_t, self.vqvae_hps.downs_t)

    @property
    def top(self) -> Level | None:
        return self.levels[-1]

    def vqvae(self, sample_length: int, device: torch.device | str) -> VQVAE:
        """The VQ-VAE, for songs of that many samples (a multiple of the top level's tokens)."""
        hps = Hyperparams(self.vqvae_hps, sample_length=sample_length, train=False)
        if torch.device(device).type == "meta":
            hps.restore_vqvae = ""
        return make_vqvae(hps, device)

    def marks(self, levels: Sequence[int]) -> dict[str, str]:
        """For the VQ-VAE and the priors of some levels, which weights are meant, see `weights_mark`."""
        paths = {"vqvae": self.vqvae_hps.restore_vqvae}
        paths.update({f"level_{i}": found.hps.restore_prior for i in levels if (found := self.levels[i]) is not None})
        return {f"weights_of_{part}": weights_mark(path) for part, path in paths.items()}

    def check_names(self, names: Sequence[tuple[str, str]]) -> None:
        """Refuses artists and genres that a level does not know; "" and unknown are known.

        Raises:
            UserError: the first of them, with the nearest that the level knows.
        """
        for level in self.levels:
            for artist, genre in names if level is not None else []:
                for line in level.labeller.unknown_names(artist, genre):  # type: ignore[union-attr]
                    name = artist if line.startswith("artist ") else genre
                    if name.lower() not in ("", "unknown"):
                        raise UserError(
                            f"{line}. Choose one of them, or add --unknown_labels=ok to count it as unknown"
                        )

    def prior(self, level: int, vqvae: VQVAE, device: torch.device, dtype: str = "fp32") -> LazyPrior | None:
        """The prior of a level, to be loaded when it is needed."""
        found = self.levels[level]
        return None if found is None else LazyPrior(found, len(self.levels), vqvae, device, dtype)


@dataclass
class KeptModel(Model):
    """A model whose parts are loaded once: priors rest in host memory, and are on their device while they work."""

    _parts: dict[Any, Any] = field(default_factory=dict)

    def vqvae(self, sample_length: int, device: torch.device | str) -> VQVAE:
        """The VQ-VAE; one is kept for songs of any length."""
        if torch.device(device).type == "meta":
            return super().vqvae(sample_length, device)
        if str(device) not in self._parts:
            self._parts[str(device)] = super().vqvae(self.samples_per_code[-1], device)
        return self._parts[str(device)]

    def prior(self, level: int, vqvae: VQVAE, device: torch.device, dtype: str = "fp32") -> LazyPrior | None:
        """The prior of a level, the same at every call."""
        found, key = self.levels[level], (level, str(device), dtype)
        if found is not None and key not in self._parts:
            self._parts[key] = KeptPrior(found, len(self.levels), vqvae, device, dtype)
        return self._parts.get(key)


def weights_mark(path: str) -> str:
    """What tells the weights of a checkpoint from others, wherever the file is and whenever it was copied.

    The size and a digest of both ends are looked at: the last bytes of PyTorch's files hold checksums of all tensors.
    An address is its own mark.
    """
    part = split_part(path)
    if part is None and is_remote(path):
        return path
    files = [Path(path)]
    if part is not None:
        files = sorted(file for end in ("safetensors", "bin") for file in Path(part[0]).glob(f"*.{end}"))
    digest = hashlib.blake2b(digest_size=8)
    size = 0
    for file in files:
        with open(file, "rb") as content:
            digest.update(content.read(_HEAD))
            length = content.seek(0, os.SEEK_END)
            content.seek(max(0, length - _TAIL))
            digest.update(content.read())
        size += length
    return f"{size:,} bytes, {digest.hexdigest()}"


def aligns_lyrics(prior: Level | Prior) -> bool:
    """Whether a prior reads lyrics and says which head shows where they are."""
    of = prior.hps if isinstance(prior, Level) else prior
    return bool(prior.n_tokens) and None not in (of.alignment_layer, of.alignment_head)


class LazyPrior:
    """Takes the place of a prior until it is loaded; knows what can be known without weights.

    Args:
        level: its hyper-parameters.
        levels: number of levels of the model.
        vqvae: the loaded VQ-VAE.
        device: where it is to run.
        dtype: a name of `DTYPES`: type of its matrices and of the arithmetic.
    """

    def __init__(self, level: Level, levels: int, vqvae: VQVAE, device: torch.device, dtype: str) -> None:
        self.of, self.levels, self._vqvae, self.device, self.dtype = level, levels, vqvae, device, dtype
        self.level, self.n_ctx, self.n_tokens = level.level, level.n_ctx, level.n_tokens
        self.raw_to_tokens, self.sample_length = level.samples_per_code, level.sample_length
        self.labeller = level.labeller
        self.alignment_layer, self.alignment_head = level.hps.alignment_layer, level.hps.alignment_head

    def load(self) -> SimplePrior:
        """The prior with its weights, on its device; the caller drops it when done."""
        with _NoInit():  # every number comes from the checkpoint
            prior = make_prior(self.of.hps, self._vqvae, "cpu", self.labeller)
        half_matrices(prior, matrix_dtype(self.dtype))
        return prior.to(self.device)

    def weights_file(self) -> str:
        """The checkpoint that `load` will read, if it is one file and on the disk; else ""."""
        path = str(self.of.hps.restore_prior)
        path = str(cache_path(path)) if is_remote(path) else path
        return path if os.path.isfile(path) else ""

    def release(self) -> None:
        """Called when the work of a loaded prior is done; here, the caller has dropped it."""

    def decode(self, zs: Sequence[torch.Tensor], start_level: int, bs_chunks: int = 1) -> torch.Tensor:
        """Codes of the levels from `start_level` on -> audio [N, T, 1], by the VQ-VAE; nothing is loaded for it."""
        with torch.no_grad():
            return self._vqvae.decode(zs, start_level=start_level, end_level=self.levels, bs_chunks=bs_chunks)


Prior: TypeAlias = SimplePrior | LazyPrior  # what samplers are given


class KeptPrior(LazyPrior):
    """A prior that is read once; between uses it is in host memory."""

    _kept: SimplePrior | None = None

    def load(self) -> SimplePrior:
        if self._kept is None:
            self._kept = super().load()
        return self._kept.to(self.device)

    def weights_file(self) -> str:
        return super().weights_file() if self._kept is None else ""

    def release(self) -> None:
        if self._kept is not None:
            self._kept.to("cpu")


def use_prior(prior: Prior, device: torch.device, work: Callable[[SimplePrior], Result]) -> Result:
    """Calls `work` with a prior that is on the device, and makes sure that it leaves the device afterwards.

    Args:
        prior: a LazyPrior, which is loaded now and released again, or a module, which goes back to where it was.
        device: for modules.
    """
    if isinstance(prior, LazyPrior):
        try:
            return work(prior.load())
        finally:
            prior.release()
            empty_cache()
    first = next(iter(prior.parameters()), None) if hasattr(prior, "parameters") else None
    home = None if first is None else first.device
    if home is None or home == device:
        return work(prior)
    prior.to(device)
    try:
        return work(prior)
    finally:
        prior.to(home)
        empty_cache()


def bare_prior(level: Level, vqvae: VQVAE) -> SimplePrior:
    """The prior without memory, to count its parts."""
    hps = Hyperparams(level.hps, train=False)
    with torch.device("meta"), _NoInit():
        return build_prior(hps, vqvae, level.labeller)


class _NoInit(TorchFunctionMode):
    """Leaves out random initialisation: on the meta device it does nothing, and PyTorch loads its compiler to do it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.nn.init.normal_, torch.nn.init.uniform_, torch.nn.init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        if func in (torch.Tensor.mul, torch.Tensor.__mul__) and args[0].is_meta and isinstance(args[1], (int, float)):
            return args[0]  # a factor on random numbers
        return func(*args, **(kwargs or {}))


# ------------------------------------------------------------------------------------------------ finding a model


def find_model(name: str, weights_from: str = "") -> Model:
    """Looks a model up; reads only hyper-parameters.

    Args:
        name: a key of MODELS, or run folders and checkpoint files separated by commas.
        weights_from: a folder in the Hugging Face layout, whose weights take the place of those that a key of MODELS
            names; with it the name may be empty, and hyper-parameters come from the folder's config.json.

    Raises:
        UserError: no such model, or parts of it are missing or do not belong together.
    """
    if weights_from:
        return _from_huggingface(name, weights_from)
    if name in MODELS:
        return _registered(name)
    paths = [part.strip() for part in name.split(",") if part.strip()]
    if not any(os.path.exists(path) for path in paths):
        raise _unknown(name)
    return _from_checkpoints(name, [find_checkpoint(path) for path in paths])


def _unknown(name: str) -> UserError:
    first = next((part.strip() for part in name.split(",") if part.strip()), name)
    return UserError(
        f"unknown model {name!r}{did_you_mean(first, [*MODELS, *runs_near(first)])} Known: {', '.join(MODELS)}; "
        "or the folder of a training run, such as logs/RUN"
    )


def find_vqvae(name: str) -> Hyperparams:
    """The hyper-parameters of a VQ-VAE, `restore_vqvae` set; no prior is needed or read.

    Args:
        name: a key of MODELS, the folder or checkpoint of a VQ-VAE, or whatever `find_model` takes.

    Raises:
        UserError: no such model, or it names no weights.
    """
    if not name:
        raise UserError(f"--model is missing: give one of {', '.join(MODELS)}, or a run, such as --model=logs/RUN")
    if name in MODELS:
        hps = setup_hparams(MODELS[name][0], {})
        if not hps.restore_vqvae:
            raise UserError(f"the set {MODELS[name][0]} names no weights: set restore_vqvae in hparams.py")
        return hps
    if "," not in name:
        if not os.path.exists(name):
            raise _unknown(name)
        path = find_checkpoint(name)
        saved = load_checkpoint(path).get("hps")
        if isinstance(saved, dict) and not saved.get("prior"):
            return Hyperparams(read_saved(saved, path), restore_vqvae=path, prior=False)
    return find_model(name).vqvae_hps


def load_vqvae(hps: Hyperparams, device: torch.device | str) -> VQVAE:
    """The VQ-VAE with its weights, frozen.

    Raises:
        UserError: the weights are missing or do not fit, or it does not quantise.
    """
    vqvae = make_vqvae(
        Hyperparams(hps, sample_length=samples_per_code(hps.strides_t, hps.downs_t)[-1], train=False), device
    )
    if not vqvae.bottleneck.discrete:
        raise UserError(f"{hps.restore_vqvae} was trained with use_bottleneck=False: without codes nothing is measured")
    return vqvae


def _registered(name: str) -> Model:
    vqvae_set, *prior_sets = MODELS[name]
    vqvae_hps = setup_hparams(vqvae_set, {})
    model = Model(name, vqvae_hps, [None] * vqvae_hps.levels)
    _need_weights(f"{vqvae_set} of model {name}", "restore_vqvae", vqvae_hps.restore_vqvae)
    for prior_set in prior_sets:
        hps = setup_hparams(prior_set, {})
        _need_weights(f"{prior_set} of model {name}", "restore_prior", hps.restore_prior)
        hps.sr = vqvae_hps.sr
        checkpoint = {} if is_remote(hps.restore_prior) else load_checkpoint(hps.restore_prior)
        if hps.alignment_layer is None:  # found by align.py --find
            said = checkpoint.get("hps") or {}
            hps.update({key: said.get(key) for key in ("alignment_layer", "alignment_head", "alignment_shift")})
        _add(model, hps, checkpoint.get("labels"))
    return model


def _from_huggingface(name: str, folder: str) -> Model:
    """The model of a folder in the Hugging Face layout, by the sets of a key of MODELS or by its config.json."""
    folder = weights_folder(folder)
    weights = load_huggingface(folder)  # names and places of tensors; none is read yet
    config = config_hparams(read_config(folder)) if read_config(folder) else {}
    if name in MODELS:
        vqvae_set, *prior_sets = MODELS[name]
        vqvae_hps = setup_hparams(vqvae_set, {})
        priors = [setup_hparams(prior_set, {}) for prior_set in prior_sets]
    elif name:
        raise UserError(
            f"--weights_from goes with a key of MODELS, not with --model={name}{did_you_mean(name, MODELS)} "
            f"Known: {', '.join(MODELS)}; or leave --model out to follow {os.path.join(folder, 'config.json')}"
        )
    else:
        if not config:
            raise UserError(f"{folder} has no config.json: say which model it holds, such as --model=1b_lyrics")
        vqvae_hps = setup_hparams("", config["vqvae"])
        priors = [setup_hparams("", {**config["vqvae"], **hps}) for part, hps in config.items() if part != "vqvae"]
        for hps in priors:
            kinds = layer_kinds(hps.attn_order, hps.prior_depth)
            if hps.alignment_layer not in [i for i, kind in enumerate(kinds) if kind in LYRIC_KINDS]:
                hps.alignment_layer = hps.alignment_head = None  # a default of that library: no such lyric layer
    model = Model(name or folder, vqvae_hps, [None] * vqvae_hps.levels)
    vqvae_hps.restore_vqvae = part_path(folder, "vqvae")
    missing = [str(hps.level) for hps in priors if hps.level not in weights]
    if missing or len(weights) != 1 + len(priors):
        have = ", ".join(str(part) for part in weights if part != "vqvae") or "none"
        raise UserError(
            f"--weights_from={folder} holds priors of levels {have}, model {model.name} has "
            f"{', '.join(str(hps.level) for hps in priors)}: give the --model that the folder holds"
        )
    for hps in priors:
        hps.restore_prior = part_path(folder, hps.level)
        hps.sr = vqvae_hps.sr
        _add(model, hps, None)
    for part, hps in [("vqvae", vqvae_hps), *((hps.level, hps) for hps in priors)]:
        what = "the VQ-VAE" if part == "vqvae" else f"level {part}"
        for line in differences(part, hps, config):
            model.notices.append(f"{os.path.join(folder, 'config.json')} differs from model {name}, {what}: {line}")
    return model


def _is_there(path: str) -> bool:
    """Whether a checkpoint that was named exists: an address is believed."""
    part = split_part(path)
    return is_remote(path) or os.path.isfile(path) or (part is not None and is_folder(part[0]))


def _need_weights(what: str, key: str, path: str) -> None:
    if not path:
        raise UserError(f"the set {what} names no weights: set {key} in hparams.py to a checkpoint file or an address")
    if not _is_there(path):
        raise UserError(f"the weights of the set {what} are not there: {key}={path} is not a file")


def _from_checkpoints(name: str, paths: list[str]) -> Model:
    vqvae_path, priors = "", []
    for path in paths:
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            raise UserError(f"--model: {error}") from error
        if not isinstance(checkpoint.get("hps"), dict):
            raise UserError(f"--model: {path} holds no hyper-parameters; register a MODELS entry that names its sets")
        hps = Hyperparams(read_saved(checkpoint["hps"], path), train=False, test=False)
        if hps.prior:
            priors.append((Hyperparams(hps, restore_prior=path), checkpoint.get("labels")))
        elif vqvae_path:
            raise UserError(
                f"--model: {vqvae_path} and {path} are both a VQ-VAE; give one VQ-VAE and one prior per level"
            )
        else:
            vqvae_path = path
    if not priors:
        raise UserError(f"--model={name} is a VQ-VAE without a prior: add the run of a prior, --model={name},logs/RUN")
    vqvae_path = vqvae_path or _vqvae_of(priors[-1][0])
    vqvae_hps = read_saved(load_checkpoint(vqvae_path).get("hps", priors[-1][0]), vqvae_path)
    vqvae_hps.update(restore_vqvae=vqvae_path, train=False, test=False, prior=False)
    model = Model(name, vqvae_hps, [None] * vqvae_hps.levels)
    for hps, state in priors:
        _add(model, hps, state)
    return model


def _vqvae_of(hps: Hyperparams) -> str:
    """Where the VQ-VAE of a prior is: as its checkpoint says, from here or from the folder above its logs folder."""
    path = hps.restore_vqvae
    if not path:
        raise UserError(f"--model: {hps.restore_prior} does not say which VQ-VAE it belongs to: add its run to --model")
    if is_remote(path) and not is_released(path):  # a file does not decide what is fetched
        raise UserError(
            f"--model: {hps.restore_prior} names its VQ-VAE by an address, {path}: if you trust it, download it and "
            "add the file to --model"
        )
    beside = os.path.join(os.path.dirname(hps.restore_prior), "..", "..", path)
    # The runs beside it, and what came with the package.
    known = (Path(hps.restore_prior).parent.resolve().parent, Path(__file__).resolve().parent)
    for candidate in (path, beside):
        if _is_there(candidate):
            file = Path(candidate).resolve()
            if not is_remote(candidate) and not any(file.is_relative_to(folder) for folder in known):
                warnings.warn(f"{hps.restore_prior} takes its VQ-VAE from elsewhere: {candidate}", stacklevel=2)
            return candidate
    raise UserError(f"--model: the VQ-VAE of {hps.restore_prior}, {path}, is not there: add its run to --model")


def _add(model: Model, hps: Hyperparams, labels_state: dict[str, Any] | None) -> None:
    per_code = model.samples_per_code
    if not 0 <= hps.level < len(per_code):
        raise UserError(
            f"--model: {hps.restore_prior} is of level {hps.level}, the VQ-VAE has levels 0 to {len(per_code) - 1}"
        )
    if hps.sr != model.sr:
        raise UserError(
            f"--model: {hps.restore_prior} is for {hps.sr} Hz, its VQ-VAE for {model.sr} Hz: give the right one"
        )
    if model.levels[hps.level] is not None:
        raise UserError(f"--model gives two priors of level {hps.level}: {hps.restore_prior} is one of them")
    model.levels[hps.level] = Level(hps.level, hps, per_code[hps.level], labels_state)
