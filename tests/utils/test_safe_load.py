"""Files of tensors and plain types load whole; nothing in a file runs; what is refused is named with its place."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import os
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jukebox.hparams import Hyperparams
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch
from jukebox.weights.checkpoints import load_checkpoint

FORMS = pytest.mark.parametrize("zipped", [True, False])


class Command:
    """Runs a command of the shell when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


class Stranger:
    """A harmless class that the reader does not know."""


def save(content: Any, path: Path, zipped: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


HARMLESS: dict[str, tuple[Any, Any]] = {
    "float64": (np.float64(2.5), 2.5),
    "float32": (np.float32(0.5), 0.5),
    "int64": (np.int64(-7), -7),
    "uint8": (np.uint8(200), 200),
    "bool": (np.bool_(True), True),
    "text": (np.str_("h\u00e9"), "h\u00e9"),
    "big endian": (np.array(3, ">i4")[()], 3),
    "defaultdict": (collections.defaultdict(float, loss=1.0), {"loss": 1.0}),
    "defaultdict of lists": (collections.defaultdict(list, a=[1]), {"a": [1]}),
    "OrderedDict": (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "Counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "deque": (collections.deque([1, 2], maxlen=5), [1, 2]),
    "set": ({1, 2}, {1, 2}),
    "Hyperparams": (Hyperparams(lr=0.1, name="x"), {"lr": 0.1, "name": "x"}),
    "Namespace": (argparse.Namespace(lr=0.1), argparse.Namespace(lr=0.1)),
    "SimpleNamespace": (types.SimpleNamespace(a=[1]), types.SimpleNamespace(a=[1])),
    "date": (datetime.datetime(2020, 1, 2, 3), datetime.datetime(2020, 1, 2, 3)),
    "fraction": (fractions.Fraction(1, 3), fractions.Fraction(1, 3)),
    "decimal": (decimal.Decimal("1.5"), decimal.Decimal("1.5")),
    "device": (torch.device("cpu"), torch.device("cpu")),
}


@FORMS
@pytest.mark.parametrize("kind", HARMLESS)
def test_whole_harmless_files_load(tmp_path: Path, kind: str, zipped: bool) -> None:
    given, wanted = HARMLESS[kind]
    content = {"hps": {"deep": [given, (given,)]}, "model": {"w": torch.ones(2)}, "top": given}
    found = load_torch(save(content, tmp_path / "a.pt", zipped))
    assert found["top"] == wanted and found["hps"] == {"deep": [wanted, (wanted,)]}
    assert type(found["top"]) is type(wanted) or isinstance(found["top"], type(wanted) | dict)


@FORMS
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<i8", "u1", "?", "<U3", "S2", "<c8"])
def test_arrays_of_numbers_and_strings(tmp_path: Path, kind: str, order: Any, zipped: bool) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3).astype(kind), order=order)
    found = load_torch(save({"seen": array, "list": [array, (array,)]}, tmp_path / "a.pt", zipped))
    for copy in (found["seen"], found["list"][0], found["list"][1][0]):
        np.testing.assert_array_equal(copy, array)
        assert type(copy) is np.ndarray and copy.dtype == array.dtype and copy.flags.writeable


@FORMS
def test_the_class_of_the_released_code_has_the_same_name(tmp_path: Path, zipped: bool) -> None:
    """A dict that is filled item by item, as a class without a `__reduce__` is saved."""
    plain = type("Hyperparams", (dict,), {"__module__": "jukebox.hparams"})
    import jukebox.hparams

    own = jukebox.hparams.Hyperparams
    try:
        jukebox.hparams.Hyperparams = plain  # type: ignore[misc]
        file = save({"hps": plain(lr=1.0, levels=3)}, tmp_path / "a.pt", zipped)
    finally:
        jukebox.hparams.Hyperparams = own  # type: ignore[misc]
    assert load_torch(file) == {"hps": {"lr": 1.0, "levels": 3}}


# ----------------------------------------------------------------------------------------------------- refused


@FORMS
@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch MARKER"),
        (eval, "open('MARKER', 'w').close()"),
        (exec, "open('MARKER', 'w').close()"),
        (os.mkdir, "MARKER"),
        (getattr, "text", "upper"),
        (__import__, "subprocess"),
    ],
)
def test_nothing_in_a_file_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model": {"w": torch.ones(1)}, "opt": {"state": {3: {"step": Command(*call)}}}}
    save(content, tmp_path / "a.pt", zipped)
    with pytest.raises(UserError, match=r"opt\.state\.3\.step: \w+\.\w+") as error:
        load_torch("a.pt")
    assert "damaged" not in str(error.value) and not Path("MARKER").exists() and "\n" not in str(error.value)


@FORMS
@pytest.mark.parametrize(
    ("content", "place"),
    [
        (lambda: {"model": torch.nn.Linear(2, 2)}, r"model: torch\.nn\.modules\.linear\.Linear"),
        (lambda: {"opt": {"state": {3: {"step": Stranger()}}}}, r"opt\.state\.3\.step: \S*test_safe_load\.Stranger"),
        (lambda: {"a": [1, (2, Stranger())]}, r"a\.1\.1: \S*Stranger"),
        (lambda: Stranger(), r"the file: \S*Stranger"),
        (lambda: {"hps": argparse.Namespace(cls=Stranger)}, r"hps\.cls: \S*Stranger"),
        (lambda: collections.OrderedDict(x=Stranger()), r"x: \S*Stranger"),
        (lambda: {"loss": np.array([1, None])}, "holds NumPy values of other kinds"),
    ],
)
def test_what_is_refused_is_named_with_its_place(tmp_path: Path, content: Any, place: str, zipped: bool) -> None:
    with pytest.raises(UserError, match=place):
        load_torch(save(content(), tmp_path / "a.pt", zipped))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols_are_not_called_damaged(tmp_path: Path, protocol: int) -> None:
    torch.save({"a": "text", "b": torch.ones(1)}, tmp_path / "a.pt", pickle_protocol=protocol)
    try:
        assert load_torch(tmp_path / "a.pt")["a"] == "text"
    except UserError as error:
        assert f"pickle_protocol={protocol}" in str(error) and "damaged" not in str(error)


@FORMS
def test_damaged_files_are_called_damaged(tmp_path: Path, zipped: bool) -> None:
    whole = save({"w": torch.randn(1000), "x": [1, 2]}, tmp_path / "a.pt", zipped).read_bytes()
    for content in (b"", b"text of no kind", whole[: len(whole) // 2], whole[:100], b"\x80\x02" + whole[100:]):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(UserError, match="is damaged or not a PyTorch file"):
            load_torch(tmp_path / "a.pt")


# ----------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("step", [None, "3", float("nan"), float("inf"), -1, 1.5, 10**400, [3], torch.ones(2)])
def test_steps_that_are_not_numbers_are_refused_in_one_line(tmp_path: Path, step: Any) -> None:
    torch.save(dict(model={"w": torch.ones(1)}, hps={}, step=step), tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt: step=.* is not a number of steps") as error:
        load_checkpoint(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("step", [3, 3.0, np.int64(3), torch.tensor(3), torch.tensor([3.0])])
def test_steps_in_other_forms(tmp_path: Path, step: Any) -> None:
    torch.save(dict(model={"w": torch.ones(1)}, hps=argparse.Namespace(lr=1.0), step=step), tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt")
    assert found["step"] == 3 and type(found["step"]) is int and found["hps"] == {"lr": 1.0}


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.eye(3).to_sparse_csr(), "sparse"),
        (torch.ones(3, dtype=torch.complex64), "complex"),
        (torch.ones(1).expand(10**12), "of fewer numbers repeated"),
        (torch.ones(3, device="meta"), "on no device"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantized"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_kinds(tmp_path: Path, tensor: torch.Tensor, named: str) -> None:
    torch.save({"model": {"good": torch.ones(2), "odd": tensor}}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=f"a.pt: odd is .*{named}"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", "/etc/passwd"),
        ("labels", [1]),
        ("hps", [1]),
        ("hps", "text"),
        ("model", {"w": 3}),
        ("model", {3: "w"}),
    ],
)
def test_other_things_where_weights_or_hyper_parameters_belong(tmp_path: Path, key: str, value: Any) -> None:
    torch.save({"model": {"w": torch.ones(1)}, "hps": {}, "step": 1, key: value}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt: "):
        load_checkpoint(tmp_path / "a.pt")
