"""Trains a VQ-VAE or a prior: python jukebox/train.py --hps=SET[,SET...] --name=RUN [any hyper-parameter]

Only the command line; a run is put together in `training/run.py`; one step is in `training/step.py`.
"""

import os
import sys

if not __package__:  # as a script, whose folder would hide installed packages
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import shlex
import textwrap
from typing import TYPE_CHECKING, Any, NoReturn

from jukebox.hparams import DEFAULTS, DESCRIPTIONS, HPARAMS_REGISTRY, PATHS, Hyperparams, setup_hparams
from jukebox.training.checks import check_training
from jukebox.utils.command_line import Flag, import_lazily, run_command
from jukebox.utils.gone import gone_key
from jukebox.utils.launch import read_launch

if TYPE_CHECKING:
    from jukebox.compat import get_ddp, get_ema, get_optimizer
else:
    __getattr__ = import_lazily(__name__, "compat")

__all__ = ["get_ddp", "get_ema", "get_optimizer"]  # what older scripts import from here

DESCRIPTION = f"""\
Trains a VQ-VAE, or with --prior a prior on the codes of one. Start it under mpiexec -n N for several processes.
The same command again resumes from logs/NAME/checkpoint_latest.pth.tar; Ctrl-C saves and stops.

  VQ-VAE      --hps=small_vqvae --name=small_vqvae --sample_length=262144 --bs=4 --audio_files_dir=MUSIC
              --labels=False --train --aug_shift --aug_blend
  top level   --hps=small_vqvae,small_prior,all_fp16,cpu_ema --name=small_prior --sample_length=2097152 --bs=4
              --audio_files_dir=MUSIC --labels=False --train --test --aug_shift --aug_blend --prior --levels=2 --level=1
              --restore_vqvae=logs/small_vqvae/checkpoint_latest.pth.tar --weight_decay=0.01 --save_iters=1000
  upsampler   the same with small_upsampler, --sample_length=262144 --level=0
  plan        any of them with --dry_run: parameters and memory per process, and whether --fsdp is needed
  large       --fsdp besides: every process holds a part of weights, gradients, optimizer state and average
  fine-tune   --restore_prior=CHECKPOINT --finetune_layers=last_4, with label tables of your own in --labels_dir

{textwrap.fill("Sets for --hps: " + ", ".join(sorted(HPARAMS_REGISTRY)), 118)}"""


def flags() -> list[Flag]:
    """--hps and every hyper-parameter, in the groups of `hparams.py`."""
    first = [
        Flag("hps", "", "sets of hyper-parameters, or hparams.json of runs, from left to right; flags win", "sets")
    ]
    return first + [
        Flag(key, default, DESCRIPTIONS[key], group, "path" if key in PATHS else "")
        for group, keys in DEFAULTS.items()
        for key, default in keys.items()
    ]


def read_hps(given: dict[str, Any]) -> Hyperparams:
    """Hyper-parameters of a command line, checked.

    Raises:
        HyperparamsError, UserError: what cannot work, in a line that says what to type instead.
    """
    given = dict(given)
    hps = setup_hparams(given.pop("hps", ""), given)
    if not hps.prior:
        hps.labels = False  # a VQ-VAE hears no labels
    check_training(hps)
    return hps


def main(**given: Any) -> int:
    """Trains with the flags as keywords; returns the exit status."""
    hps = read_hps(given)
    if hps.dry_run:
        from jukebox.training.planning import plan

        if read_launch().rank == 0:
            print("\n".join(plan(hps)))
        return 0
    from jukebox.training.run import run_training  # imports torch, which --help and mistyped flags need not wait for

    return run_training(hps, shlex.join(sys.argv))


def command() -> NoReturn:
    """Runs `jukebox-train`."""
    run_command(main, flags(), DESCRIPTION, only_given=True, instead=lambda flag, _: gone_key(flag))


if __name__ == "__main__":
    command()
