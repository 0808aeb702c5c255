"""The model of a training run, from hyper-parameters and checkpoints.

Change here which weights a run begins with; what a model is made of is in `make_models.py`.
"""

from __future__ import annotations

import itertools

import torch

from jukebox.hparams import Hyperparams
from jukebox.make_models import build_prior, load_checkpoint, load_weights, make_prior, make_vqvae
from jukebox.prior.prior import SimplePrior
from jukebox.training.codes import CodesDataset, PackedCodes
from jukebox.training.finetune import freeze_all_but, freeze_all_but_decoders, match_labels, needs_matching
from jukebox.training.step import TrainedModel
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import print_once
from jukebox.utils.torch_utils import seed_everything
from jukebox.vqvae.vqvae import VQVAE


def build_trained(hps: Hyperparams, path: str, device: torch.device) -> tuple[TrainedModel, VQVAE]:
    """The model of a run, with the weights of the run's own checkpoint if `path` names one.

    Args:
        hps: resolved.

    Returns:
        What is trained, and the VQ-VAE: the same thing, or the one that a prior is built on.
    """
    seed_everything(hps.seed, "weights")
    if not hps.prior:
        vqvae = make_vqvae(hps.frozen(restore_vqvae=path or hps.restore_vqvae), device)
        if hps.finetune_layers:
            freeze_all_but_decoders(vqvae)
        return vqvae, vqvae
    vqvae = make_vqvae(hps, device)
    sharded = hps.fsdp and hps.train and dist.get_world_size() > 1
    place = torch.device("cpu") if sharded else device  # sharding moves it layer by layer
    prior = make_tuned_prior(hps, vqvae, place) if hps.restore_prior and not path else None
    if prior is None:
        prior = make_prior(hps.frozen(restore_prior=path or hps.restore_prior), vqvae, place)
    if place.type == "cpu":  # weights of our own instead of pages of a file that is about to be replaced
        for tensor in itertools.chain(prior.parameters(), prior.buffers()):
            tensor.data = tensor.data.clone()
    freeze_all_but(prior, hps.finetune_layers)
    return prior, vqvae


def make_tuned_prior(hps: Hyperparams, vqvae: VQVAE, device: torch.device) -> SimplePrior | None:
    """A prior from a checkpoint with other label tables, rows matched by name; None if the tables are the same."""
    with torch.device("meta"):
        bare = build_prior(hps, vqvae)
    checkpoint = dict(load_checkpoint(hps.restore_prior))
    if not needs_matching(checkpoint, bare):
        return None
    prior = make_prior(hps.frozen(restore_prior=""), vqvae, "cpu")
    checkpoint["model"] = {key.removeprefix("module."): value for key, value in checkpoint["model"].items()}
    for line in match_labels(checkpoint, prior):
        print_once(line)
    load_weights(prior, checkpoint, hps.restore_prior)
    return prior.to(device)


def use_codes(dataset: CodesDataset, prior: SimplePrior, vqvae: VQVAE) -> None:
    """Writes what is missing of the data's codes, and lets the prior read them where it would encode audio."""
    for line in dataset.prepare(vqvae):
        print_once(line)
    per_code = vqvae.hop_lengths[prior.level :]
    prior.use_encoder(PackedCodes(per_code, dataset.sample_length, prior.level, vqvae.encode))
