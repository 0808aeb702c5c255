"""The reconstruction losses by name; `losses.py` computes them. No torch here: checks of a command line read this."""

from collections.abc import Mapping
from typing import Any

from jukebox.utils.errors import UserError

LOSS_KINDS = ["l1", "l2", "linf", "lmix"]


def check_loss(loss_fn: str, weights: Mapping[str, Any]) -> None:
    """Refuses a loss that cannot be computed: an unknown one, or `lmix` whose `lmix_l1`, `_l2`, `_linf` are all 0."""
    if loss_fn not in LOSS_KINDS:
        raise UserError(f"loss_fn={loss_fn}: use one of {', '.join(LOSS_KINDS)}")
    if loss_fn == "lmix" and not any(weights[f"lmix_{kind}"] for kind in ("l1", "l2", "linf")):
        raise UserError(
            "loss_fn=lmix with lmix_l1, lmix_l2 and lmix_linf all 0: give at least one, such as --lmix_l2=1.0"
        )
