"""Hyper-parameters: what the sets say, how they compose, and what a mistyped one is told."""

from __future__ import annotations

import json
import operator
import pickle
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jukebox import hparams
from jukebox.hparams import (
    DEFAULTS,
    DESCRIPTIONS,
    HPARAMS_REGISTRY,
    FrozenHyperparams,
    Hyperparams,
    HyperparamsError,
    all_defaults,
    check_value,
    setup_hparams,
)

# Every default and every set of the release.
RELEASED = json.loads((Path(__file__).parent / "golden" / "hparams.json").read_text(encoding="utf-8"))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Hyperparams]]:
    """The registry, put back as it was afterwards."""
    copy = {name: Hyperparams(values) for name, values in HPARAMS_REGISTRY.items()}
    monkeypatch.setattr(hparams, "HPARAMS_REGISTRY", copy)
    yield copy


def test_defaults() -> None:
    for group, values in RELEASED["defaults"].items():
        assert {key: DEFAULTS[group][key] for key in values} == values
    assert setup_hparams("", {}) == all_defaults()


@pytest.mark.parametrize("name", RELEASED["registry"])
def test_sets(name: str) -> None:
    assert HPARAMS_REGISTRY[name] == RELEASED["registry"][name]


def test_lists_are_the_callers_own() -> None:
    before = json.dumps([HPARAMS_REGISTRY, DEFAULTS])
    for names in ("", "vqvae", "small_vqvae"):
        setup_hparams(names, {}).downs_t.append(9)
        all_defaults().strides_t.append(9)
    assert json.dumps([HPARAMS_REGISTRY, DEFAULTS]) == before
    assert isinstance(setup_hparams("vqvae", {}).copy(), Hyperparams)


def test_numbers_of_other_libraries_and_of_other_kinds() -> None:
    hps = setup_hparams(
        "", dict(bs=np.int64(3), lr=np.float32(0.5), audio_files_dir=Path("a"), blocks=64.0, max_len=1.5)
    )
    assert (hps.bs, hps.lr, hps.audio_files_dir, hps.blocks, hps.max_len) == (3, 0.5, "a", 64, 1.5)
    assert [type(hps[key]) for key in ("bs", "lr", "blocks")] == [int, float, int]
    for wrong in (dict(strides_t=["a", 2]), dict(downs_t=[1.5, 1]), dict(y_bins=[True, 2])):
        with pytest.raises(HyperparamsError, match="whole numbers"):
            setup_hparams("", wrong)


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


def test_the_record_of_a_run_is_a_set(tmp_path: Path) -> None:
    """--hps=logs/RUN/hparams.json: what the run had, and what is given besides wins."""
    path = tmp_path / "hparams.json"
    run = setup_hparams("small_vqvae,small_prior", dict(lr=0.01, name="old", blocks=None))
    path.write_text(json.dumps({"command": "train.py", "hps": run}), encoding="utf-8")
    assert setup_hparams(str(path), {}) == run
    assert setup_hparams(f"teeny, {path}", dict(name="new")) == {**run, "name": "new"}
    for text, said in (
        ('{"hps": {"prior_dept": 2}}', "unknown hyper-parameter 'prior_dept' in .*hparams.json.*prior_depth"),
        ('{"hps": {"bs": "many"}}', "bs='many' is a str"),
        ('{"hps": [1, 2]}', "is not the record of a run: give logs/RUN/hparams.json"),
        ("[]", "is not the record of a run"),
        ("{", "is not the record of a run"),
        ("[" * 100_000, "is not the record of a run"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(HyperparamsError, match=said):
            setup_hparams(str(path), {})
    path.unlink()
    with pytest.raises(HyperparamsError, match="No such file.*logs/RUN/hparams.json"):
        setup_hparams(str(path), {})


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


WRITES: dict[str, Callable[[Any], Any]] = {
    "key": lambda hps: hps.__setitem__("bs", 2),
    "attribute": lambda hps: setattr(hps, "bs", 2),
    "update": lambda hps: hps.update(bs=2),
    "update with a dict": lambda hps: hps.update({"bs": 2}),
    "or": lambda hps: operator.ior(hps, {"bs": 2}),
    "setdefault": lambda hps: hps.setdefault("bs", 2),
    "pop": lambda hps: hps.pop("bs"),
    "popitem": lambda hps: hps.popitem(),
    "clear": lambda hps: hps.clear(),
    "del": lambda hps: hps.__delitem__("bs"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
def test_frozen_hyper_parameters_refuse_to_be_written(write: Callable[[Any], Any]) -> None:
    hps = setup_hparams("", {})
    frozen = hps.frozen(lr=0.5)
    before = dict(frozen)
    with pytest.raises(
        HyperparamsError, match=r"are resolved, so \w+ cannot be changed: make a copy .*Hyperparams\(hps, "
    ):
        write(frozen)
    assert frozen == before == {**hps, "lr": 0.5}
    write(hps)  # those that are not frozen
    with pytest.raises(HyperparamsError, match="bs cannot be changed"):
        del frozen.bs


def test_every_way_to_write_into_a_dict_is_refused() -> None:
    writes = {name for name in vars(MutableMapping) if not name.startswith("_abc") and not hasattr(Mapping, name)}
    assert {"pop", "__ior__"} <= writes | {"__ior__"} <= {*vars(FrozenHyperparams), "_MutableMapping__marker"}


def test_copies_of_frozen_hyper_parameters() -> None:
    frozen = setup_hparams("", {}).frozen()
    for copy in (frozen.copy(), Hyperparams(frozen)):
        copy.bs = 7
        assert type(copy) is Hyperparams and frozen.bs == 1
    for same in (pickle.loads(pickle.dumps(frozen)), deepcopy(frozen), frozen.frozen()):
        assert type(same) is FrozenHyperparams and same == frozen
    assert json.loads(json.dumps(frozen)) == frozen and frozen.lr == 0.0003
