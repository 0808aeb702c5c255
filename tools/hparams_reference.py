"""Writes docs/hparams.md, the reference of every hyper-parameter and every named set: python tools/hparams_reference.py

All of it comes from `jukebox/hparams.py`: change a default, a description or a set there and run this again.
`tests/docs/test_docs.py` fails where the page is out of date.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from jukebox.hparams import DEFAULTS, DESCRIPTIONS, HPARAMS_REGISTRY, Hyperparams, HyperparamsError, check_value

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "hparams.md"

INTRODUCTION = """\
# Hyper-parameters

*Written by `python tools/hparams_reference.py` from [`jukebox/hparams.py`](../jukebox/hparams.py). Change that file,
then run the command again.*

Hyper-parameters are composed: all defaults, then the sets of `--hps` from left to right, then single flags. A later
value wins. An unknown key or set is an error that names the nearest known one.

```sh
python jukebox/train.py --hps=small_vqvae,small_prior --prior --level=1 --sample_length=2097152 --labels=False --dry_run
```

On a command line a list is written with commas (`--downs_t=3,2,2`), and a bool by only its name (`--train`), as
`--train=False` or as `--notrain`. In Python:

```python
from jukebox.hparams import setup_hparams

hps = setup_hparams("small_vqvae,small_prior", dict(bs=4, lr=1e-4))
assert hps.n_ctx == 8192
```

`python jukebox/train.py --help` prints the same keys. A run leaves the values it had in
`logs/RUN/hparams.json`. `--hps` takes that file, too, for another run under another `--name`; flags win.
"""

GROUPS = {  # what each group is about, in the order of the page
    "script": "The run itself",
    "data": "Songs, batches and lyrics",
    "vqvae": "VQ-VAE: levels, codebooks, losses",
    "vqvae_conv_block": "VQ-VAE: residual stacks",
    "prior": "Prior: level, labels, lyrics",
    "prior_attn_block": "Prior: transformer",
    "cond_conv_block": "Prior: conditioner on the level above",
    "sample": "Sampling lengths",
    "prime": "Lyrics: loss",
    "prime_attn_block": "Lyrics: separate encoder",
    "opt": "Optimizer and learning rate",
    "fp16": "Precision",
    "train_test_eval": "Training, evaluation, labels, weight average",
    "audio": "Audio and spectral losses",
    "distributed": "Several processes",
}

SETS = {  # what a set is for, where a line helps
    "teeny": "A name for the defaults only.",
    "easy": "Half the sample rate.",
    "vqvae": "The released VQ-VAE: three levels of 8, 32 and 128 samples a code at 44,100 Hz.",
    "upsampler_level_0": "Released prior of level 0, conditioned on level 1.",
    "upsampler_level_1": "Released prior of level 1, conditioned on level 2.",
    "prior_5b": "Released top-level prior with labels, without lyrics.",
    "prior_5b_lyrics": "Released top-level prior with labels and a separate lyric encoder.",
    "prior_1b_lyrics": "Released top-level prior with labels, lyrics and music in one sequence.",
    "small_vqvae": "A VQ-VAE of two levels to train yourself: 32 and 256 samples a code at 22,050 Hz.",
    "small_prior": "Its top-level prior without labels.",
    "small_labelled_prior": "The same with artist, genre and timing; set `y_bins` to your own tables.",
    "small_single_enc_dec_prior": "With lyrics too, in one sequence with the music.",
    "small_sep_enc_dec_prior": "With lyrics too, by a separate encoder.",
    "small_upsampler": "The prior of level 0 for `small_vqvae`.",
    "tiny_vqvae": "Trains on a laptop's processor in minutes: 16 and 64 samples a code at 11,025 Hz.",
    "tiny_prior": "Its top-level prior, with labels.",
    "tiny_lyrics_prior": "The same with lyrics; timed lyrics teach it where they are sung.",
    "tiny_upsampler": "The prior of level 0 for `tiny_vqvae`.",
    "demo_vqvae": "The VQ-VAE of the model `demo`: three levels of 8, 32 and 128 samples a code at 11,025 Hz.",
    "demo_prior": "Its top-level prior, with labels and lyrics.",
    "demo_upsampler_1": "Its prior of level 1.",
    "demo_upsampler_0": "Its prior of level 0.",
    "all_fp16": "Training in half precision: activations, matrices and optimizer state.",
    "cpu_ema": "The weight average is in host memory.",
}

# Values of each type; a key's types are those that `check_value` takes unchanged.
_PROBES: dict[str, Any] = {"bool": True, "int": 2, "float": 1.5, "list": [1, 2], "str": "a"}


def types_of(key: str, default: Any) -> str:
    """The types that a key takes, in words."""
    if isinstance(default, str):
        return "str"  # numbers are taken too, and become text
    taken = []
    for name, value in _PROBES.items():
        try:
            kept = check_value(key, value)
        except HyperparamsError:
            continue
        if type(kept) is type(value):
            taken.append(name)
    if default is None:
        taken.append("None")
    return " or ".join(taken)


def code(value: Any) -> str:
    """A value as Python writes it, for a table; files of this repository by their path in it."""
    if isinstance(value, str) and value.startswith(f"{ROOT}/"):
        value = value[len(f"{ROOT}/") :]
    return f"`{value!r}`".replace("|", "\\|")


def group_table(name: str, keys: Hyperparams) -> str:
    """The section of one group of defaults."""
    rows = [f"## {GROUPS[name]}", "", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, default in keys.items():
        meaning = DESCRIPTIONS[key].replace("|", "\\|")
        rows.append(f"| `{key}` | {types_of(key, default)} | {code(default)} | {meaning} |")
    return "\n".join(rows)


def nearest_earlier(name: str) -> str | None:
    """The earlier set that a set takes all keys of and changes least, where that makes the table shorter."""
    own = HPARAMS_REGISTRY[name]
    best, fewest = None, len(own) - 3  # at least four rows must be saved
    for other, values in HPARAMS_REGISTRY.items():
        if other == name:
            break
        if values and values.keys() <= own.keys():
            rows = len(changes(own, values))
            if rows < fewest:
                best, fewest = other, rows
    return best


def changes(own: Hyperparams, base: Hyperparams) -> Hyperparams:
    """What `own` has that `base` has not, or has otherwise."""
    return Hyperparams({key: value for key, value in own.items() if key not in base or base[key] != value})


def set_table(name: str, defaults: Hyperparams) -> str:
    """The section of one named set."""
    own = HPARAMS_REGISTRY[name]
    lines = [f"### {name}", ""] + ([SETS[name], ""] if name in SETS else [])
    if not own:
        return "\n".join([*lines, "It changes nothing."])
    base = nearest_earlier(name)
    shown = changes(own, HPARAMS_REGISTRY[base]) if base else own
    if base and not shown:
        return "\n".join([*lines, f"The same values as [`{base}`](#{base})."])
    if base:
        lines += [f"All of [`{base}`](#{base}), and:", ""]
    lines += ["| key | value | default |", "| --- | --- | --- |"]
    lines += [f"| `{key}` | {code(value)} | {code(defaults[key])} |" for key, value in shown.items()]
    return "\n".join(lines)


def render() -> str:
    """The whole page."""
    if GROUPS.keys() != DEFAULTS.keys():
        raise SystemExit(f"name these groups in GROUPS of {Path(__file__).name}: {GROUPS.keys() ^ DEFAULTS.keys()}")
    defaults = Hyperparams({key: value for group in DEFAULTS.values() for key, value in group.items()})
    parts = [INTRODUCTION]
    parts += [group_table(name, DEFAULTS[name]) + "\n" for name in GROUPS]
    links = ", ".join(f"[`{name}`](#{name})" for name in HPARAMS_REGISTRY)
    names = textwrap.fill(links, 118, break_long_words=False, break_on_hyphens=False)
    parts.append(
        "## Named sets\n\nA set lists only what it changes. Values that equal the default are there to win over a set "
        f"to the left.\n\n{names}\n"
    )
    parts += [set_table(name, defaults) + "\n" for name in HPARAMS_REGISTRY]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")
