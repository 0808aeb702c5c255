"""What code for the original release names and this package does not have, and what to write instead.

For messages only: a name in these tables gets its line where it is met, not the nearest spelling. `docs/migrate.md` has
what changed as one table.
"""

from __future__ import annotations

import os

_DEBUG = "nothing here is switched for debugging; --epochs=1 makes a short run, --dry_run counts its memory"
_RESET = "a run that starts from --restore_prior under another --name begins its own counts"
_CUTS = "songs are cut only by --sample_length"
_SAMPLE = "training makes no songs; python jukebox/sample.py does, with"

# Hyper-parameters that are gone -> why, and what to use instead.
_KEYS = {
    _DEBUG: "debug_mem debug_eval_files debug_speed debug_iters debug_batch debug_grad_accum debug_inputs "
    "break_train break_test exit_train",
    _RESET: "reset_best_loss reset_step reset_opt reset_shd",
    _CUTS: "n_inps n_hops n_total_segment n_segment_each prime_chunks sample_hop_length max_silence_pad_length "
    "ignore_boundaries wav",
    "songs are taken out by taking their files out of --audio_files_dir": "train_shrink_factor test_shrink_factor",
    "which names a model knows is in its tables: python -m jukebox.data.labels build": "english_only p_unk",
    "every prior below the top is conditioned on the one level above it": "cond_levels",
    "a label is the first position of the sequence": "y_cond_as_bias",
    "--restore_prior=CHECKPOINT reads all weights of a prior, on one process or several": (
        "restore_prior_ddp restore_decoder"
    ),
    "--restore_prior=CHECKPOINT with --finetune_layers=last_4 fine-tunes": "finetune",
    "--iters_before_update adds up batches": "grad_accum_iters",
    "--codes_dir keeps the codes of songs": "codes_logdir",
    "python jukebox/train.py trains, python jukebox/sample.py samples": "func",
    "--local_logdir is the folder of all runs": "local_path date",
    f"{_SAMPLE} --temp=0.99,0.99,0.98": "temp_top temp_rest",
    f"{_SAMPLE} --chunk_size=32": "primed_chunk_size",
    f"{_SAMPLE} --artist, --genre and --lyrics": "selected_artists label_line labeller",
    f"{_SAMPLE} --model=logs/RUN": "sample sampler dump",
    "layers are not spread over devices; --fsdp shards a model over processes": "piped pipe_depth",
}
GONE_KEYS = {key: why for why, keys in _KEYS.items() for key in keys.split()}

_TRAINING = "python jukebox/train.py trains and evaluates; a loop of your own takes jukebox.train.get_optimizer"
_SAMPLING = "python jukebox/sample.py makes songs and pages, jukebox.load(MODEL).sample(...) makes them in Python"
# Functions that are gone -> what to call instead.
GONE_NAMES = {
    "jukebox.train": {
        **dict.fromkeys(("train", "evaluate", "run"), _TRAINING),
        **dict.fromkeys(("init_logging", "log_aug", "log_inputs"), "torch.utils.tensorboard logs what you compute"),
        "sample_prior": _SAMPLING,
    },
    "jukebox.sample": dict.fromkeys(("run", "save_samples"), _SAMPLING),
}

# Flags of other commands that are given to sample.py.
_SAMPLE_FLAGS = {
    "hps": "a model brings its own hyper-parameters",
    "restore_prior": "the run that holds a checkpoint is the model",
    "restore_vqvae": "a run of a prior knows its VQ-VAE",
    "fp16": "--dtype=fp16 is half precision",
}


def gone_name(module: str, name: str) -> None:
    """Raises an ImportError that says what to write instead of a function of old code, if it is one."""
    if name in GONE_NAMES.get(module, {}):
        raise ImportError(f"{module}.{name} is gone: {GONE_NAMES[module][name]} (docs/migrate.md)")


def gone_key(key: str) -> str:
    """Why a hyper-parameter of old code is gone, as the end of a sentence about it; "" if there was none."""
    return f" is gone: {GONE_KEYS[key]} (docs/migrate.md)" if key in GONE_KEYS else ""


def sample_flag(flag: str, value: str) -> str:
    """The same of a flag that belongs to train.py and was given to sample.py, with the model to name instead."""
    why = _SAMPLE_FLAGS.get(flag, "")
    if not why:
        return gone_key(flag)
    if flag == "fp16":
        return f" is for training: {why}"
    folder = os.path.dirname(value) if flag == "restore_prior" else ""
    return f" is for training: {why}, so give --model={folder or 'logs/RUN'}"
