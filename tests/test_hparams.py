"""Hyper-parameters: what the sets say, how they compose, and what a mistyped one is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from jukebox import hparams
from jukebox.hparams import (
    DEFAULTS,
    DESCRIPTIONS,
    HPARAMS_REGISTRY,
    Hyperparams,
    HyperparamsError,
    all_defaults,
    check_value,
    setup_hparams,
)

# Facts that files and papers depend on; not a copy of the registry.
DEFAULT_FACTS = {
    "sr": 44100,
    "levels": 2,
    "downs_t": [1, 1],
    "l_bins": 512,
    "l_mu": 0.99,
    "emb_width": 64,
    "n_ctx": 1024,
    "m_attn": 0.25,
    "m_mlp": 1.0,
    "blocks": None,
    "lr": 0.0003,
    "beta2": 0.999,
    "eps": 1e-8,
    "clip": 1.0,
    "lr_warmup": 100.0,
    "fp16_scale_window": 1000.0,
    "cpu_ema_freq": 100,
    "mu": None,
    "train_test_split": 0.9,
    "linf_k": 2048,
    "multispec_loss_n_fft": [2048, 1024, 512],
    "multispec_loss_hop_length": [240, 120, 50],
    "multispec_loss_window_size": [1200, 600, 240],
    "sample_length_in_seconds": 24,
}
SET_FACTS: dict[str, dict[str, Any]] = {
    "vqvae": dict(levels=3, downs_t=[3, 2, 2], l_bins=2048, hvqvae_multipliers=[2, 1, 1], commit=0.02, lmix_linf=0.02),
    "upsampler_level_0": dict(level=0, n_ctx=8192, prior_width=1920, prior_depth=72, heads=1, cond_res_scale=False),
    "upsampler_level_1": dict(level=1, n_ctx=8192, prior_width=1920, prior_depth=72, heads=1, cond_res_scale=True),
    "prior_5b": dict(level=2, n_ctx=8192, prior_width=4800, prior_depth=72, heads=8, attn_order=2, merged_decoder=True),
    "prior_5b_lyrics": dict(prior_depth=79, attn_order=10, n_tokens=512, alignment_layer=68, alignment_head=2),
    "prior_1b_lyrics": dict(n_ctx=6144, prior_width=2048, n_tokens=384, labels_v3=True, alignment_layer=63, blocks=64),
    "small_vqvae": dict(sr=22050, levels=2, downs_t=[5, 3], strides_t=[2, 2], l_bins=1024, loss_fn="l2"),
    "small_prior": dict(n_ctx=8192, prior_width=1024, prior_depth=48, heads=1, attn_order=2, blocks=64),
    "small_labelled_prior": dict(n_ctx=8192, labels=True, labels_v3=True, y_bins=[10, 100], max_bow_genre_size=1),
    "small_single_enc_dec_prior": dict(n_ctx=6144, single_enc_dec=True, n_tokens=384, n_vocab=79, attn_order=12),
    "small_sep_enc_dec_prior": dict(n_ctx=6144, single_enc_dec=False, prime_width=256, prime_depth=9, attn_order=8),
    "small_upsampler": dict(n_ctx=8192, cond_width=512, cond_depth=16, cond_dilation_growth_rate=3),
    "all_fp16": dict(fp16=True, fp16_params=True, fp16_opt=True, fp16_scale_window=250),
    "cpu_ema": dict(ema=True, cpu_ema=True, cpu_ema_freq=100, ema_fused=False),
}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Hyperparams]]:
    """The registry, put back as it was afterwards."""
    copy = {name: Hyperparams(values) for name, values in HPARAMS_REGISTRY.items()}
    monkeypatch.setattr(hparams, "HPARAMS_REGISTRY", copy)
    yield copy


def test_defaults() -> None:
    assert {key: all_defaults()[key] for key in DEFAULT_FACTS} == DEFAULT_FACTS
    assert setup_hparams("", {}) == all_defaults()


@pytest.mark.parametrize("name", SET_FACTS)
def test_sets(name: str) -> None:
    assert {key: HPARAMS_REGISTRY[name].get(key, all_defaults()[key]) for key in SET_FACTS[name]} == SET_FACTS[name]


@pytest.mark.parametrize("name", sorted(HPARAMS_REGISTRY))
def test_every_set_composes(name: str) -> None:
    hps = setup_hparams(name, {})
    assert set(hps) == set(all_defaults())
    for key, value in HPARAMS_REGISTRY[name].items():
        assert hps[key] == value


def test_every_key_stands_once_and_is_described() -> None:
    keys = [key for group in DEFAULTS.values() for key in group]
    assert len(keys) == len(set(keys)) == len(all_defaults())
    assert set(DESCRIPTIONS) == set(keys)
    for key, text in DESCRIPTIONS.items():
        assert text.strip() == text != "" and "\n" not in text, key


def test_keys_without_a_default_say_their_types() -> None:
    empty = {key for key, value in all_defaults().items() if value is None}
    assert empty == set(hparams._NONE_TYPES)


def test_released_weights_have_addresses() -> None:
    expected = {
        "vqvae": ("restore_vqvae", "5b/vqvae"),
        "upsampler_level_0": ("restore_prior", "5b/prior_level_0"),
        "upsampler_level_1": ("restore_prior", "5b/prior_level_1"),
        "prior_5b": ("restore_prior", "5b/prior_level_2"),
        "prior_5b_lyrics": ("restore_prior", "5b_lyrics/prior_level_2"),
        "prior_1b_lyrics": ("restore_prior", "1b_lyrics/prior_level_2"),
    }
    for name, (key, path) in expected.items():
        assert HPARAMS_REGISTRY[name][key] == f"{hparams.REMOTE_PREFIX}jukebox/models/{path}.pth.tar"


def test_sets_compose_from_left_to_right_and_keywords_win() -> None:
    hps = setup_hparams("small_vqvae,small_prior,all_fp16", {"bs": 4})
    assert (hps.levels, hps.n_ctx, hps.fp16, hps.bs) == (2, 8192, True, 4)
    assert setup_hparams("small_prior,small_single_enc_dec_prior", {}).n_ctx == 6144
    assert setup_hparams("small_single_enc_dec_prior,small_prior", {}).n_ctx == 8192
    assert setup_hparams("small_prior", {"n_ctx": 64}).n_ctx == 64
    assert setup_hparams(["small_vqvae", "small_prior"], {}) == setup_hparams(" small_vqvae , small_prior ", {})


def test_composing_leaves_the_registry_alone() -> None:
    before = {name: dict(values) for name, values in HPARAMS_REGISTRY.items()}
    hps = setup_hparams("small_vqvae", {"sr": 8000})
    hps.width = 7
    assert {name: dict(values) for name, values in HPARAMS_REGISTRY.items()} == before
    assert setup_hparams("small_vqvae", {}).width == 32


@pytest.mark.parametrize(
    ("names", "keywords", "expected"),
    [
        ("small_vqva", {}, ["'small_vqva'", "small_vqvae", "Known sets:"]),
        ("nothing_like_it", {}, ["'nothing_like_it'", "prior_5b_lyrics"]),
        ("", {"prior_dept": 3}, ["'prior_dept'", "prior_depth"]),
        ("small_vqvae", {"bs": "four"}, ["bs='four'", "int"]),
        ("", {"bs": 1.5}, ["bs=1.5", "int"]),
        ("", {"lr": "fast"}, ["lr='fast'", "float"]),
        ("", {"lr": True}, ["lr=True", "float"]),
        ("", {"train": "yes"}, ["train='yes'", "bool"]),
        ("", {"train": 2}, ["train=2", "bool"]),
        ("", {"downs_t": 3}, ["downs_t=3", "list"]),
        ("", {"name": ["a"]}, ["name=['a']", "str"]),
        ("", {"blocks": "8"}, ["blocks='8'", "int or None"]),
        ("", {"min_duration": True}, ["min_duration=True", "int or float or None"]),
    ],
)
def test_mistakes_are_named_with_what_would_do(names: str, keywords: dict[str, object], expected: list[str]) -> None:
    with pytest.raises(HyperparamsError) as error:
        setup_hparams(names, keywords)
    for part in expected:
        assert part in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("key", "given", "taken"),
    [
        ("bs", 4.0, 4),
        ("lr", 1, 1.0),
        ("train", 1, True),
        ("name", 2024, "2024"),
        ("downs_t", (3, 2), [3, 2]),
        ("y_bins", [10, 100], [10, 100]),
        ("y_bins", 0, 0),
        ("blocks", None, None),
        ("max_duration", 600, 600),
    ],
)
def test_values_are_taken_as_they_are_meant(key: str, given: object, taken: object) -> None:
    value = check_value(key, given)
    assert value == taken and type(value) is type(taken)


def test_a_set_of_ones_own(registry: dict[str, Hyperparams]) -> None:
    mine = Hyperparams(prior_width=256)
    mine.update(registry["small_prior"])
    mine.prior_depth = 2
    registry["mine"] = mine
    hps = setup_hparams("small_vqvae,mine", {})
    assert (hps.sr, hps.prior_depth, hps.prior_width) == (22050, 2, 1024)


def test_a_set_of_ones_own_is_checked(registry: dict[str, Hyperparams]) -> None:
    registry["mine"] = Hyperparams(prior_dept=2)
    with pytest.raises(HyperparamsError, match="'prior_dept' in set 'mine'.*prior_depth"):
        setup_hparams("mine", {})


def test_updating_a_registered_set(registry: dict[str, Hyperparams]) -> None:
    registry["small_prior"].update(prior_depth=5)
    assert setup_hparams("small_prior", {}).prior_depth == 5


def test_items_are_attributes() -> None:
    hps = Hyperparams(a=1)
    hps.b = 2
    assert (hps.a, hps["b"], dict(hps)) == (1, 2, {"a": 1, "b": 2})
    with pytest.raises(AttributeError, match="'c'"):
        _ = hps.c
    assert not hasattr(hps, "c") and getattr(hps, "c", 3) == 3
