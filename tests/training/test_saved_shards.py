"""Saved shards: what is damaged is told, no name in a file leads out of its folder, and nothing in a file runs."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CPU, TinyData, tiny_hps, tiny_model

from jukebox.training.checkpoint import restore_training
from jukebox.training.old_shards import OldShards
from jukebox.training.saved_shards import load_shards, save_shards, write_safetensors
from jukebox.training.step import Training, make_training, train_step
from jukebox.utils.errors import UserError

BESIDES: dict[str, Any] = {}


def make(seed: int = 0, steps: int = 0) -> Training:
    torch.manual_seed(seed)
    hps = tiny_hps(prior=True, bs=2, mu=0.9, ema_fused=False)
    training = make_training(tiny_model(hps), hps, CPU)
    for batch in TinyData(hps, batches=steps).train_loader if steps else ():
        train_step(training, [batch])
    return training


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Training]:
    folder, training = tmp_path_factory.mktemp("run"), make(steps=2)
    besides = save_shards(training, str(folder / "shards_2"))
    return folder, {**besides, "folder": "shards_2"}, training


@pytest.fixture()
def shards(written: Any, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    import shutil

    shutil.copytree(written[0], tmp_path / "run")
    return tmp_path / "run", dict(written[1])


def test_what_was_written_is_read(written: Any) -> None:
    folder, besides, training = written
    other = make(seed=1)
    load_shards(other, str(folder), besides, 2)
    for (name, a), (_, b) in zip(training.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name
        for key, value in training.optimizer.state[a].items():
            assert torch.equal(torch.as_tensor(other.optimizer.state[b][key]), torch.as_tensor(value)), (name, key)
    assert training.average is not None and other.average is not None
    for a, b in zip(training.average.averages(), other.average.averages(), strict=True):
        assert torch.equal(a, b)
    assert sorted(os.listdir(folder / "shards_2")) == ["index.json", "part_0.safetensors"]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def edit(path: Path, change: Any) -> None:
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def first(index: Any) -> Any:
    return index["tensors"][next(iter(index["tensors"]))]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda d: flip(d / "part_0.safetensors", -3), "is not what was written"),
        (lambda d: (d / "part_0.safetensors").unlink(), "No such file"),
        (lambda d: (d / "index.json").unlink(), "No such file"),
        (lambda d: (d / "index.json").write_text("{"), "line 1"),
        (lambda d: (d / "part_0.safetensors").write_bytes(b"x" * 99), "header"),
        (lambda d: edit(d / "index.json", lambda i: i["tensors"].popitem()), "is missing"),
        (lambda d: edit(d / "index.json", lambda i: i.update(version=9)), "version 9 is not known"),
        (lambda d: edit(d / "index.json", lambda i: first(i).update(shape=[10**9, 3])), "has the shape"),
        (lambda d: edit(d / "index.json", lambda i: first(i).update(rows=[])), "rows of .* are missing"),
        (
            lambda d: edit(d / "index.json", lambda i: first(i)["rows"][0].__setitem__(0, "../x")),
            "not a name in the fo",
        ),
        (lambda d: edit(d / "index.json", lambda i: first(i)["rows"][0].__setitem__(0, "/etc/passwd")), "not a name"),
    ],
)
def test_damaged_shards_are_one_line(shards: Any, harm: Any, message: str) -> None:
    folder, besides = shards
    harm(folder / "shards_2")
    with pytest.raises(UserError, match=f"cannot read the shards in .*{message}.*start from an older") as error:
        load_shards(make(), str(folder), besides, 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["/tmp", "..", "../run/shards_2", "", "a/b", "a\\b", None, 3, "shards_2\0"])
def test_no_name_leads_out_of_the_folder(shards: Any, name: Any) -> None:
    folder, besides = shards
    with pytest.raises(UserError, match="cannot read the shards"):
        load_shards(make(), str(folder), {**besides, "folder": name}, 2)


class Command:
    def __reduce__(self) -> Any:
        return os.system, ("touch MARKER",)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_pickled_index_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool) -> None:
    """The index of `torch.distributed.checkpoint` in a run from elsewhere, in its folder or where its path points."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / ".metadata").write_bytes(pickle.dumps(Command()))
    (tmp_path / "evil" / "__0_0.distcp").write_bytes(pickle.dumps(Command()))
    checkpoint = dict(step=3, shards=dict(folder=str(tmp_path / "evil") if absolute else "evil", steps={}, scales={}))
    with pytest.raises(UserError, match="cannot read the shards in .*evil|cannot read the shards"):
        restore_training(make(), checkpoint, str(tmp_path))
    assert not (tmp_path / "MARKER").exists()
    with pytest.raises(pickle.UnpicklingError, match=r"names posix\.system|names nt\.system"):
        OldShards(str(tmp_path / "evil"))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_parts_of_an_old_index_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good index whose parts are pickles of something else, or are elsewhere."""
    from torch.distributed import checkpoint as dcp

    monkeypatch.chdir(tmp_path)
    dcp.save({"raw/w": torch.ones(4, 2)}, checkpoint_id="old", no_dist=True)
    old = OldShards("old")
    assert old.shape("raw/w") == (4, 2)
    ((begin, count, read),) = old.pieces("raw/w")
    assert (begin, count) == (0, 4) and torch.equal(read(), torch.ones(4, 2))
    (part,) = Path("old").glob("*.distcp")
    part.write_bytes(pickle.dumps(Command(), 2) * 50)
    with pytest.raises(Exception, match="."):
        read()
    metadata = Path("old/.metadata").read_bytes()
    Path("old/.metadata").write_bytes(metadata.replace(part.name.encode(), b"../x".ljust(len(part.name), b"y")))
    ((_, _, read),) = OldShards("old").pieces("raw/w")
    with pytest.raises(UserError, match="not a name in the folder"):
        read()
    assert not Path("MARKER").exists()


def test_the_files_are_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = {
        "a": torch.randn(3, 2),
        "half": torch.randn(5).half(),
        "b": torch.randn(2).bfloat16(),
        "none": torch.zeros(0, 4),
        "turned": torch.randn(3, 4).t(),
    }
    write_safetensors(str(tmp_path / "a.safetensors"), tensors)
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[key], tensors[key]) for key in tensors)
