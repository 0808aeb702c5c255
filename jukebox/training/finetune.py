"""Fine-tuning: only some layers of a prior or the decoders of a VQ-VAE in training, and weights from a model with other
label tables.

The rows of an embedding belong to names. If a checkpoint's tables are known, a row goes to the same name in the new
tables. Names that the checkpoint does not know keep a fresh row. Change here which parameters count as embeddings, and
how names of two tables are matched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from jukebox.data.artist_genre_processor import norm
from jukebox.data.labels import Labeller
from jukebox.prior.prior import SimplePrior
from jukebox.utils.errors import UserError
from jukebox.vqvae.vqvae import VQVAE

EMBEDDINGS = ("y_emb.", "prior.x_emb.", "prior.x_out.", "prior.pos_emb.", "prior.start_token")
RELEASED = {4111: False, 7898: True}  # artists in the released tables -> whether these are the v3 ones
ARTISTS, GENRES = "y_emb.artist_emb.emb.weight", "y_emb.bow_genre_emb.emb.weight"
SIGNAL = "y_emb.signal_embs."


def chosen_layers(text: str, depth: int) -> list[int]:
    """The layers that `finetune_layers` names: `last_N`, or numbers from 0 with commas between; all if it is empty.

    Raises:
        UserError: another form, or layers that do not exist.
    """
    text = str(text).strip().strip("()[]")
    if not text:
        return list(range(depth))
    advice = (
        f"use last_N with N from 1 to {depth}, or numbers from 0 to {depth - 1} such as {max(0, depth - 2)},{depth - 1}"
    )
    last = re.fullmatch(r"last_(\d+)", text.lower())
    if last:
        layers = list(range(depth))[-int(last[1]) :] if 0 < int(last[1]) <= depth else []
    elif re.fullmatch(r"\d+( *, *\d+)*,?", text):
        layers = sorted({int(number) for number in text.strip(",").split(",")})
    else:
        layers = []
    if not layers or layers[-1] >= depth:
        raise UserError(f"finetune_layers={text}: the prior has {depth} layers; {advice}")
    return layers


def freeze_all_but_decoders(vqvae: VQVAE) -> None:
    """Lets only the decoders learn: audio keeps its codes, so priors that were trained on them stay right."""
    vqvae.encoders.requires_grad_(False)
    vqvae.codes_are_fixed = True


def freeze_all_but(prior: nn.Module, text: str) -> None:
    """Stops gradients to all but the layers that `finetune_layers` names and the embeddings; none if it is empty."""
    if not str(text).strip():
        return
    depth = len(prior.prior.transformer.layers)  # type: ignore[union-attr,arg-type]
    starts = tuple(f"prior.transformer._attn_mods.{layer}." for layer in chosen_layers(text, depth)) + EMBEDDINGS
    for name, parameter in prior.named_parameters():
        parameter.requires_grad = name.startswith(starts)


# ------------------------------------------------------------------------------------------- label tables


def tables_of(checkpoint: Mapping[str, Any]) -> Labeller | None:
    """The labeller of a checkpoint: its own tables, or the released ones if it has their size; None: not known."""
    if isinstance(checkpoint.get("labels"), Mapping):
        return Labeller.from_state(checkpoint["labels"])
    v3 = RELEASED.get(checkpoint["model"][ARTISTS].shape[0])
    return None if v3 is None else Labeller(1, 0, 1, v3)


def matching_rows(old: Mapping[str, int], new: Mapping[str, int], same_form: bool) -> dict[int, int]:
    """New id -> old id of the same name; id 0, unknown, stays. Names of two forms are compared in the plainer one.

    If several names share an id, the first of them in alphabetical order that is known decides.
    """
    known = dict(old) if same_form else {norm(name): index for name, index in sorted(old.items(), reverse=True)}
    rows = {0: 0}
    for name, index in sorted(new.items()):
        found = known.get(name if same_form else norm(name))
        if found and index and index not in rows:
            rows[index] = found
    return rows


def needs_matching(checkpoint: Mapping[str, Any], prior: SimplePrior) -> bool:
    """Whether a checkpoint's label rows may be of other names than the prior's."""
    own, theirs = prior.state_dict(), checkpoint["model"]
    if ARTISTS not in own or ARTISTS not in theirs:
        return False
    if any(key.startswith(SIGNAL) and key not in theirs for key in own):
        return True
    if any(own[key].shape != theirs[key].shape for key in (ARTISTS, GENRES)):
        return True
    saved = tables_of(checkpoint)
    if saved is None:
        return False  # all that is known is that the sizes agree
    assert isinstance(prior.labeller, Labeller)
    mine, theirs = prior.labeller.state(), saved.state()
    return any(mine[key] != theirs[key] for key in ("v3", "artist_ids", "genre_ids"))


def match_labels(checkpoint: dict[str, Any], prior: SimplePrior) -> list[str]:
    """Puts a checkpoint's label rows where the prior's tables have their names, in place.

    Args:
        checkpoint: with `model`, and `labels` if its tables are its own.
        prior: with fresh weights and its labeller; it gives the rows of names that the checkpoint does not know.

    Returns:
        Lines that say how many names matched.
    """
    state = checkpoint["model"]
    theirs = tables_of(checkpoint)
    mine = prior.labeller
    assert isinstance(mine, Labeller)
    fresh = prior.state_dict()
    added = [key for key in fresh if key.startswith(SIGNAL) and key not in state]
    state.update({key: torch.zeros_like(fresh[key]) for key in added})
    lines = [f"signal {key.split('.')[2]}: new to the checkpoint, without effect at first" for key in added]
    if theirs is None:
        state.update({key: fresh[key].detach().clone() for key in (ARTISTS, GENRES)})
        lines.append("the checkpoint's label tables are not known: the embeddings of artists and genres start again")
        return lines
    tables = {
        "artist": (ARTISTS, theirs.ag_processor.artist_ids, mine.ag_processor.artist_ids),
        "genre": (GENRES, theirs.ag_processor.genre_ids, mine.ag_processor.genre_ids),
    }
    for kind, (key, old, new) in tables.items():
        rows = matching_rows(old, new, theirs.v3 == mine.v3)
        rows = {n: o for n, o in rows.items() if n < fresh[key].shape[0] and o < state[key].shape[0]}
        weight = fresh[key].detach().clone()
        weight[list(rows)] = state[key][torch.tensor(list(rows.values()))].to(weight)
        state[key] = weight
        ids = {index for index in new.values() if index}
        lines.append(f"{kind} names: {len(rows) - 1} of {len(ids)} known to the checkpoint, the others start again")
    return lines
