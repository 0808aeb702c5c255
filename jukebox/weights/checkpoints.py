"""Checkpoints: how they are read, written, and fitted to a model.

A checkpoint is a dict {hps, model, opt, step, ...} of plain types and tensors; docs/formats.md lists its keys. Change
here what a file may look like; which modules there are is in `make_models.py`, which gives these functions to users.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from jukebox.prior.conditioners import rename_residual_blocks
from jukebox.prior.prior import SimplePrior
from jukebox.utils.dist_utils import print_once
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch, save_torch
from jukebox.utils.outside import current
from jukebox.utils.precision import odd_numbers
from jukebox.utils.remote_utils import fetch, is_remote
from jukebox.weights.huggingface import load_part, split_part


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint; one that is named by URL is downloaded into the cache first.

    A part of a folder in the Hugging Face layout, `FOLDER#vqvae` or `FOLDER#level_2`, is read as a checkpoint, too
    (`jukebox/weights/huggingface.py`). Tensors stay on the disk until they are read.

    Returns:
        {hps, model, opt, step, ...}; a file that holds a bare state dict comes back as {model: it}.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint.
    """
    path = os.fspath(path)
    if part := split_part(path):
        return {"model": load_part(*part)}
    local = fetch(path) if is_remote(path) else path
    try:
        checkpoint = load_torch(local, mmap=True)
    except UserError:
        if not is_remote(path):
            raise
        checkpoint = load_torch(fetch(path, again=True), mmap=True)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{local} holds no checkpoint: expected a dict with the weights under 'model'")
    if "model" not in checkpoint and checkpoint and all(isinstance(v, Tensor) for v in checkpoint.values()):
        checkpoint = {"model": checkpoint}
    if not isinstance(checkpoint.get("model"), dict):
        found = ", ".join(map(str, list(checkpoint)[:8])) or "nothing"
        raise UserError(f"{local} holds no checkpoint: expected the weights under 'model', found {found}")
    _tidy(checkpoint, local)
    return checkpoint


def _tidy(checkpoint: dict[str, Any], path: str) -> None:
    """Makes hyper-parameters a dict and counts of steps whole numbers, in place.

    Raises:
        UserError: they are something else, or there are other things than tensors among the weights.
    """
    if isinstance(checkpoint.get("hps"), (Namespace, SimpleNamespace)):
        checkpoint["hps"] = dict(vars(checkpoint["hps"]))
    if checkpoint.get("hps") is not None and not isinstance(checkpoint["hps"], dict):
        raise UserError(f"{path}: 'hps' is a {type(checkpoint['hps']).__name__}, not a dict of hyper-parameters")
    for key, value in checkpoint["model"].items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: {key!r} among the weights is a {type(value).__name__}, not a tensor with a name")
        if odd := _odd_kind(value):
            raise UserError(f"{path}: {key} is {odd}, not a dense tensor of real numbers")
    if not isinstance(checkpoint.get("labels"), (dict, type(None))):
        raise UserError(f"{path}: 'labels' is a {type(checkpoint['labels']).__name__}, not a dict of label tables")
    for key in ("step", "skipped"):
        if key in checkpoint:
            checkpoint[key] = _count(checkpoint[key], key, path)


def _odd_kind(tensor: Tensor) -> str:
    """What is wrong with the kind of a tensor; "" for dense real numbers that the file holds."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        return "sparse or quantized"
    if tensor.is_meta or tensor.is_complex():
        return "on no device" if tensor.is_meta else "complex"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"{list(tensor.shape)} of fewer numbers repeated"
    return ""


def _count(value: Any, key: str, path: str) -> int:
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 2**53 or number % 1:
        raise UserError(f"{path}: {key}={str(value)[:40]} is not a number of steps; save it with a whole number from 0")
    return int(number)


class Steps(Protocol):
    """A learning-rate schedule."""

    def step(self, step: int) -> object:
        """Moves to a step."""


def save_checkpoint(
    path: str | os.PathLike[str],
    hps: Mapping[str, Any],
    model: nn.Module | Mapping[str, Tensor],
    opt: torch.optim.Optimizer | Mapping[str, Any] | None = None,
    step: int = 0,
    **extra: Any,
) -> None:
    """Writes a checkpoint atomically.

    Args:
        path: the file; an earlier one of that name is replaced only when the new one is complete.
        hps: all hyper-parameters; the labeller's tables should travel under `labels`, see `Labeller.state`.
        model: a module or its state dict; a leading `module.` is dropped.
        opt: an optimizer, its state dict, or None.
        step: steps trained.
        extra: whatever a resumed run needs: plain types and tensors.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError("save_checkpoint(path, hps, model, opt, step) takes the file first; it needs no logger")
    state = model.state_dict() if isinstance(model, nn.Module) else model
    opt_state = opt if opt is None or isinstance(opt, Mapping) else opt.state_dict()
    checkpoint = {
        "hps": dict(hps),
        "model": {_bare(key): value.detach() for key, value in state.items()},
        "opt": opt_state,
        "step": int(step),
        **extra,
    }
    save_torch(checkpoint, path)


def _bare(key: str) -> str:
    return key.removeprefix("module.")


def _difference(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """A short table of the keys that do not fit, or ""."""
    own = model.state_dict()
    rows = {
        "missing in the file": [f"{key} {list(own[key].shape)}" for key in own if key not in state],
        "unexpected in the file": [f"{key} {list(state[key].shape)}" for key in state if key not in own],
        "of another shape": [
            f"{key} {list(state[key].shape)}, the model has {list(own[key].shape)}"
            for key in own
            if key in state and own[key].shape != state[key].shape
        ],
    }
    lines = []
    for kind, keys in rows.items():
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            lines.append(f"  {len(keys)} {kind}: {'; '.join(keys[:3])}{more}")
    return "\n".join(lines)


def _share_heads(model: nn.Module, state: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    """If embedding and output head are one matrix, gives a file that holds it under one name the other, in place.

    Raises:
        UserError: the file holds two different matrices.
    """
    for name, module in model.named_modules():
        if not (getattr(module, "share_x_emb_x_out", False) and hasattr(module, "x_out")):
            continue
        prefix = f"{name}." if name else ""
        names = [f"{prefix}x_emb.weight", f"{prefix}x_out.weight"]
        found = [state[key] for key in names if key in state]
        if len(found) == 1:
            state.update(dict.fromkeys(names, found[0]))
        elif len(found) == 2 and found[0].shape == found[1].shape and not torch.equal(*found):
            raise UserError(
                f"{os.fspath(path)}: {names[0]} and {names[1]} differ, the model built from the hyper-parameters has "
                "one matrix for both; merged_decoder=True has two"
            )


def _leave_out_layers(prior: SimplePrior, state: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    """If the model was built with fewer layers than a file has, drops those after them, in place, and says so."""
    start, layers = "prior.transformer._attn_mods.", prior.prior.transformer.layers
    in_file = 0
    while f"{start}{in_file}.mlp.c_fc.w" in state:  # a stray name is not a layer, and stays to be reported
        in_file += 1
    if in_file <= len(layers):
        return
    for key in [key for key in state if key.startswith(start) and len(layers) <= int(key.split(".")[3]) < in_file]:
        del state[key]
    for layer in layers:
        if layer.res_scale != 1.0:  # one over the depth with which the weights were trained
            layer.res_scale = 1.0 / in_file
    print_once(f"{os.fspath(path)}: layers 1 to {len(layers)} of {in_file} are loaded, as prior_depth asks")


def restore_model(hps: Mapping[str, Any], model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Loads the weights of a checkpoint into a model, each tensor once, in the model's own types.

    A model built on the meta device gets its tensors here, so that the weights are never held twice.

    Args:
        hps: hyper-parameters of the model, for the message when they do not fit.
        path: file or URL; an empty one leaves the model as it is, at step 0.

    Returns:
        The model, with `model.step` set to the steps it was trained.

    Raises:
        UserError: keys or shapes differ; the message lists them.
    """
    model.step = 0  # type: ignore[assignment]
    if not os.fspath(path):
        return model
    return load_weights(model, current("jukebox.make_models", load_checkpoint)(path), path)


_KINDS = {"prior.": "prior", "encoders.": "VQ-VAE"}  # what their parameters begin with


def load_weights(model: nn.Module, checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> nn.Module:
    """Loads the weights of a checkpoint that was read already; see `restore_model`.

    Args:
        path: where it came from, for messages.
    """
    state = {_bare(key): value for key, value in checkpoint["model"].items()}
    own = model.state_dict()
    if isinstance(model, SimplePrior):
        for name, module in model.named_modules():
            if hasattr(module, "cond") and hasattr(module, "x_emb"):
                rename_residual_blocks(state, f"{name}.")
        _leave_out_layers(model, state, path)
    _share_heads(model, state, path)
    difference = _difference(model, state)
    if difference:
        _check_kind(own, state, checkpoint.get("hps"), path)
        raise UserError(
            f"{os.fspath(path)} does not fit the model built from the hyper-parameters:\n{difference}\n"
            "  use the sets it was trained with, or --model=RUN_FOLDER, which takes them from the checkpoint"
        )
    on_meta = any(tensor.is_meta for tensor in own.values())
    for key in state:
        wanted = own[key]
        if wanted.is_floating_point() and not state[key].is_floating_point():
            raise UserError(f"{os.fspath(path)}: {key} holds {state[key].dtype}, where weights belong")
        tensor = state[key] if state[key].dtype == wanted.dtype else state[key].to(wanted.dtype)
        if odd := odd_numbers(tensor):
            raise UserError(f"{os.fspath(path)}: {key} holds {odd}: the weights are damaged, use an older checkpoint")
        state[key] = tensor if on_meta or wanted.device == tensor.device else tensor.to(wanted.device)
    if on_meta:
        model.load_state_dict(state, assign=True)
        for module in model.modules():
            if getattr(module, "share_x_emb_x_out", False) and hasattr(module, "x_out"):
                module.x_out.weight = module.x_emb.weight  # type: ignore[union-attr]
    else:
        model.load_state_dict(state)
    model.step = int(checkpoint.get("step", 0))  # type: ignore[assignment]
    return model


def _check_kind(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], hps: object, path: str | os.PathLike[str]
) -> None:
    """Names a prior that was given as a VQ-VAE, and the other way round."""
    kinds = [
        next((kind for start, kind in _KINDS.items() if any(k.startswith(start) for k in s)), "") for s in (own, state)
    ]
    if "" in kinds or kinds[0] == kinds[1]:
        return
    vqvae = hps.get("restore_vqvae") if kinds[1] == "prior" and isinstance(hps, Mapping) else ""
    raise UserError(
        f"{os.fspath(path)} is the checkpoint of a {kinds[1]}, and a {kinds[0]} is wanted"
        + (f"; this prior's VQ-VAE is {vqvae}" if vqvae else "")
    )


def restore_opt(opt: torch.optim.Optimizer, shd: Steps | None, path: str | os.PathLike[str]) -> None:
    """Loads optimizer state and learning-rate schedule of a checkpoint;
    an empty path or one without them does nothing.
    """
    if not os.fspath(path):
        return
    checkpoint = current("jukebox.make_models", load_checkpoint)(path)
    if checkpoint.get("opt") is not None:
        opt.load_state_dict(checkpoint["opt"])
    if shd is not None and "step" in checkpoint:
        shd.step(checkpoint["step"])
