"""Fine-tuning: rows go to their names, only chosen layers move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import TinyData, tiny_hps

from jukebox.data.artist_genre_processor import norm
from jukebox.training import finetune, run
from jukebox.training.finetune import ARTISTS, GENRES, chosen_layers, matching_rows
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch
from jukebox.utils.label_row import SIGNALS, Signal

LABELS = dict(
    prior=True,
    labels=True,
    labels_v3=True,
    max_bow_genre_size=1,
    t_bins=4,
    min_duration=0.6,
    max_duration=60.0,
    prior_depth=3,
    restore_vqvae="logs/vqvae/checkpoint_latest.pth.tar",
    mu=0.5,
    epochs=1,
    sample_iters=-1,
)


class LabelledData(TinyData):
    """Made-up sound with labels of ids 1 and 2."""

    def __init__(self, hps: Any, **_: Any) -> None:
        super().__init__(hps)
        if hps.labels:
            moods = [[0], [1]] if hps.signals else [[], []]
            y = torch.tensor([[4000 * 20, 0, 2048, 1, 1, *moods[0]], [4000 * 20, 4000, 2048, 2, 2, *moods[1]]])
            loader = self.train_loader

            class Loader:
                def __len__(self) -> int:
                    return len(loader)

                def __iter__(self) -> Any:
                    return ((x, y) for x in loader)

            self.train_loader = Loader()  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "DataProcessor", LabelledData)
    monkeypatch.chdir(tmp_path)
    train(name="vqvae", epochs=1, sample_iters=-1)


def tables(folder: str, artists: list[str], genres: list[str]) -> dict[str, Any]:
    """Writes label tables; returns the hyper-parameters that go with them."""
    Path(folder).mkdir()
    for kind, names in (("artist", artists), ("genre", genres)):
        rows = [f"{name};{i}\n" for i, name in enumerate(["unknown", *names])]
        Path(folder, f"{kind}_ids.txt").write_text("".join(rows), encoding="utf-8")
    return dict(labels_dir=folder, y_bins=[len(genres) + 1, len(artists) + 1])


def train(**values: Any) -> dict[str, Any]:
    hps = tiny_hps(**values)
    assert run.run_training(hps, "") == 0
    return load_torch(f"logs/{hps.name}/checkpoint_latest.pth.tar")


def test_rows_go_to_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    old = train(name="old", **LABELS, **tables("old", ["ann", "ben", "cleo"], ["jazz", "rock"]))
    new_tables = tables("new", ["cleo", "dora", "ann", "eve"], ["rock", "polka", "ska"])
    capsys.readouterr()
    path = "logs/old/checkpoint_latest.pth.tar"
    new = train(name="new", **{**LABELS, "lr": 1e-12, **new_tables}, restore_prior=path, ema=False)
    said = capsys.readouterr().out
    assert "artist names: 2 of 4 known to the checkpoint, the others start again" in said
    assert "genre names: 1 of 3 known to the checkpoint" in said

    def rows(checkpoint: Any, key: str) -> torch.Tensor:
        return checkpoint["model"][key]

    for key, pairs in ((ARTISTS, {0: 0, 1: 3, 3: 1}), (GENRES, {0: 0, 1: 2})):
        assert len(rows(new, key)) == {ARTISTS: 5, GENRES: 4}[key]
        for i in range(len(rows(new, key))):
            found = [
                j for j in range(len(rows(old, key))) if torch.allclose(rows(new, key)[i], rows(old, key)[j], atol=1e-9)
            ]
            assert found == ([pairs[i]] if i in pairs else []), (key, i)
            assert rows(new, key)[i].abs().max() > 0
    for key, value in old["model"].items():
        if key not in (ARTISTS, GENRES):
            torch.testing.assert_close(new["model"][key], value, rtol=0, atol=1e-6)
    assert new["labels"]["artist_ids"]["dora"] == 2


def test_the_same_tables_are_taken_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    same = tables("old", ["ann", "ben"], ["jazz", "rock"])
    old = train(name="old", **LABELS, **same)
    capsys.readouterr()
    again = train(
        name="again", **{**LABELS, "lr": 1e-12, "epochs": 2}, **same, restore_prior="logs/old/checkpoint_latest.pth.tar"
    )
    assert "artist names" not in capsys.readouterr().out
    torch.testing.assert_close(again["raw_model"][ARTISTS], old["raw_model"][ARTISTS], rtol=0, atol=1e-6)
    assert again["step"] == 3 * old["step"]  # and the optimizer resumes as well


def test_a_new_signal_starts_without_effect_and_learns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SIGNALS, "mood", Signal("calm or wild", 3, ["calm", "wild"].index))
    values = {**LABELS, **tables("old", ["ann", "ben"], ["jazz", "rock"])}
    old = train(name="old", **values)
    more = dict(signals="mood", restore_prior="logs/old/checkpoint_latest.pth.tar", ema=False)
    capsys.readouterr()
    still, moved = (train(name=f"new{lr}", **{**values, "lr": lr}, **more) for lr in (1e-12, 0.01))
    assert "signal mood: new to the checkpoint, without effect at first" in capsys.readouterr().out
    for key, value in old["model"].items():
        torch.testing.assert_close(still["model"][key], value, rtol=0, atol=1e-6)
    assert still["model"]["y_emb.signal_embs.mood.emb.weight"].abs().max() < 1e-6
    assert [row.abs().max() > 1e-3 for row in moved["model"]["y_emb.signal_embs.mood.emb.weight"]] == [1, 1, 0]
    assert moved["labels"]["signals"] == "mood"


def test_the_order_of_the_same_names_counts() -> None:
    old = train(name="old", **LABELS, **tables("old", ["ann", "ben"], ["jazz", "rock"]))
    values = {**LABELS, "lr": 1e-12, **tables("new", ["ben", "ann"], ["jazz", "rock"])}
    new = train(name="new", **values, restore_prior="logs/old/checkpoint_latest.pth.tar", ema=False)
    torch.testing.assert_close(new["model"][ARTISTS], old["model"][ARTISTS][[0, 2, 1]], rtol=0, atol=1e-9)


def test_a_released_file_is_matched_by_the_released_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A released file has no tables with it: they are looked up by its form, names of two forms by the plainer one."""
    from jukebox.data import artist_genre_processor

    old = train(name="old", **LABELS, **tables("old", ["ann", "ben"], ["jazz", "rock"]))
    torch.save({"model": old["model"], "step": 9}, "released.pth.tar")
    Path("ids").mkdir()
    Path("ids/v2_artist_ids.txt").write_text("unknown;0\nann_lee;1\nac_dc;2\n", encoding="utf-8")
    Path("ids/v2_genre_ids.txt").write_text("unknown;0\njazz;1\nrock;2\n", encoding="utf-8")
    monkeypatch.setattr(artist_genre_processor, "LOCAL_TABLES", Path("ids"))
    monkeypatch.setattr(finetune, "RELEASED", {3: False})
    values = {**LABELS, "lr": 1e-12, **tables("new", ["ac/dc", "zoe", "ann lee"], ["rock", "ska"])}
    new = train(name="new", **values, restore_prior="released.pth.tar", ema=False)
    own = old["model"][ARTISTS]
    torch.testing.assert_close(new["model"][ARTISTS][[0, 1, 3]], own[[0, 2, 1]], rtol=0, atol=1e-9)
    assert new["step"] == 5


def test_rows_of_unknown_tables_start_afresh(capsys: pytest.CaptureFixture[str]) -> None:
    old = train(name="old", **LABELS, **tables("old", ["ann", "ben"], ["jazz", "rock"]))
    torch.save({"model": old["model"]}, "bare.pth.tar")
    train(name="new", **LABELS, **tables("new", ["ann", "ben", "eve"], ["rock", "ska"]), restore_prior="bare.pth.tar")
    assert "label tables are not known: the embeddings of artists and genres start again" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "layers"), [("last_1", {2}), ("0,2", {0, 2}), ("last_3", {0, 1, 2})])
def test_only_chosen_layers_and_embeddings_move(text: str, layers: set[int]) -> None:
    values = {**LABELS, **tables("old", ["ann", "ben"], ["jazz", "rock"])}
    old = train(name="old", **values)
    torch.save({"model": old["model"]}, "start.pth.tar")
    common = dict(restore_prior="start.pth.tar", finetune_layers=text)
    new = train(name="new", **values, **common)
    moved = {key for key, value in new["raw_model"].items() if not torch.equal(value, old["model"][key])}
    assert {int(key.split(".")[3]) for key in moved if "_attn_mods" in key} == layers
    rest = {key for key in moved if "_attn_mods" not in key}
    assert {"prior.x_emb.weight", "prior.pos_emb.pos_emb", ARTISTS, GENRES} <= rest
    assert all(key.startswith(("prior.x_", "prior.pos_emb", "y_emb.")) for key in rest)
    further = train(name="new", **{**values, "epochs": 2}, **common)  # a resumed run freezes the same
    assert further["step"] == 10
    frozen = [key for key in old["model"] if key not in moved]
    assert frozen or len(layers) == 3
    assert all(torch.equal(further["raw_model"][key], old["model"][key]) for key in frozen)
    with pytest.raises(UserError, match="finetune_layers"):
        train(name="new", **{**values, "epochs": 3}, **{**common, "finetune_layers": ""})


def test_decoders_alone_learn_and_codes_stay() -> None:
    old = train(name="old", epochs=1, sample_iters=-1, lr=0.001)
    start = "logs/old/checkpoint_latest.pth.tar"
    tuned = dict(restore_vqvae=start, finetune_layers="decoders", sample_iters=-1)
    new = train(name="new", epochs=1, **tuned)
    moved = {key for key, value in new["raw_model"].items() if not torch.equal(value, old["model"][key])}
    decoders = {key for key in old["model"] if key.startswith("decoders.")}
    assert moved == decoders and new["step"] > 0
    further = train(name="new", epochs=2, **tuned)
    assert further["step"] > new["step"]  # a resumed run freezes the same
    assert all(torch.equal(further["raw_model"][key], old["model"][key]) for key in set(old["model"]) - decoders)


def test_layers_by_text() -> None:
    assert chosen_layers("", 4) == [0, 1, 2, 3]
    assert chosen_layers("last_2", 4) == [2, 3]
    assert chosen_layers("LAST_4", 4) == [0, 1, 2, 3]
    assert chosen_layers("3, 1,3", 4) == [1, 3]
    assert chosen_layers("2", 4) == [2]
    for wrong in ("last_0", "last_5", "4", "last", "-1", "a,b", "1;2"):
        with pytest.raises(UserError, match="use last_N with N from 1 to 4, or numbers from 0 to 3 such as 2,3"):
            chosen_layers(wrong, 4)


def test_matching_rows_has_a_slow_twin() -> None:
    old = {"unknown": 0, "a": 1, "b": 2, "bb": 2, "ac/dc": 3}
    new = {"unknown": 0, "b": 5, "ac/dc": 1, "AC DC": 2, "z": 3, "bb": 4}
    assert matching_rows(old, new, True) == {0: 0, 5: 2, 1: 3, 4: 2}
    plain = {norm(name): index for name, index in old.items()}
    slow = {0: 0, **{index: plain[norm(name)] for name, index in new.items() if plain.get(norm(name))}}
    assert matching_rows(old, new, False) == slow == {0: 0, 5: 2, 1: 3, 2: 3, 4: 2}
