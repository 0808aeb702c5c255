"""Every wrong use is refused before anything is loaded, in one line that says what to type instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_tiny_runs

from jukebox.sampling.models import Model, find_model
from jukebox.sampling.settings import Settings, read_settings
from jukebox.sampling.songs import DEMO
from jukebox.utils.errors import UserError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return find_model(make_tiny_runs(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def released() -> dict[str, Model]:
    return {name: find_model(name) for name in ("5b", "5b_lyrics", "1b_lyrics")}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one, with a sound, saved codes, labels and lyrics."""
    monkeypatch.chdir(tmp_path)
    Path("a.wav").write_bytes(b"RIFF")
    saved = [("codes", 3, 100, 3), ("two", 2, 100, 3), ("large", 3, 100, 16), ("empty", 3, 0, 0)]
    for name, levels, length, code in saved:
        zs = [torch.full((2, 0 if i < levels - 1 else length), code) for i in range(levels)]
        torch.save({"zs": zs}, f"{name}.pth.tar")
    torch.save({"zs": [torch.zeros(1, n, dtype=torch.long) for n in (400, 200, 100)]}, "whole.pth.tar")
    torch.save([1, 2], "list.pth.tar")
    Path("bad.json").write_text("{")
    Path("key.json").write_text(json.dumps([{"artist": "a"}, {"artst": "b"}]))
    Path("type.json").write_text(json.dumps([{"artist": 5}]))
    Path("none.json").write_text("[]")
    Path("far.json").write_text(json.dumps([{"offset_in_seconds": 30, "total_length_in_seconds": 31}]))
    Path("latin.txt").write_bytes("Café".encode("latin-1"))
    return tmp_path


def settings(model: Model, **flags: Any) -> Settings:
    return read_settings({"name": "out", **flags}, model)


WRONG = [
    (dict(name=""), "--name is missing: give the folder to write to"),
    (dict(mode="remix"), "--mode=remix: choose ancestral, primed, continue or upsample"),
    (dict(levels=2), "--levels=2: model .* has 3 levels; use 3 or leave it out"),
    (dict(sr=44100), "--sr=44100: model .* makes 250 Hz"),
    (dict(n_samples=0), "--n_samples=0: must be 1 or more"),
    (dict(n_samples=1.5), "--n_samples=1.5: give a whole number"),
    (dict(seed="x"), "--seed=x: give a whole number"),
    (dict(format="ogg"), "--format=ogg: choose wav, flac or mp3"),
    (dict(dtype="int8"), "--dtype=int8: choose fp32, fp16 or bf16"),
    # lengths
    (dict(sample_length_in_seconds=0), "--sample_length_in_seconds=0: must be above 0"),
    (dict(sample_length_in_seconds="long"), "--sample_length_in_seconds=long: give a number"),
    (dict(sample_length_in_seconds=0.05), "shorter than one token of the top level: use 0.0640 or more"),
    (
        dict(sample_length_in_seconds=1.0),
        r"0.96 s are too short: the upsampler of level 1 works on 1.024 s .* "
        "use --sample_length_in_seconds=1.024 or more",
    ),
    (dict(sample_length_in_seconds=70), "--total_sample_length_in_seconds=.*songs of 2 s up to, not including, 60 s"),
    (dict(total_sample_length_in_seconds=20), "=20 is shorter than the 24.00 s .* use 24 or more"),
    (dict(total_sample_length_in_seconds=60), "=60: the model knows songs of 2 s up to, not including, 60 s"),
    (
        dict(sample_length_in_seconds=1.2, total_sample_length_in_seconds=1.5),
        "=1.5: the model knows songs of 2 s up to, not including, 60 s",
    ),
    (dict(metas="far.json"), "total_length_in_seconds of song 0=31 is shorter than the 54.00 s"),
    # windows
    (dict(hop_fraction=0), "--hop_fraction=0: must be above 0"),
    (dict(hop_fraction=1.5), "--hop_fraction=1.5 of level 0: windows would leave gaps; use 1 or less"),
    (dict(hop_fraction=(0.5, 0.5)), "--hop_fraction has 2 values for 3 levels: give one, or one per level"),
    (dict(hop_fraction=(0.5, 0.1, 0.5)), r"=0.1 of level 1 is 3 of 32 tokens, .* multiple of 2 from 2 up: use 0.13$"),
    (dict(hop_fraction=(0.01, 0.5, 0.5)), "level 0 is 0 of 32 tokens, .* use 0.07$"),
    # drawing
    (dict(temp=0), "--temp=0: must be above 0; for the likeliest token every time use --top_k=1"),
    (dict(temp=(1, 1)), "--temp has 2 values for 3 levels"),
    (dict(top_k=-1), "--top_k=-1: must be 0 or more"),
    (dict(top_p=1.0), "--top_p=1.0: must be below 1"),
    (dict(top_k=5, top_p=0.9), "--top_k and --top_p exclude each other: leave one out"),
    (dict(top_k=(0, 0, 5), top_p=(0, 0, 0.9)), "exclude each other"),
    (dict(max_batch_size=0), "--max_batch_size=0: must be 1 or more"),
    # modes
    (dict(mode="primed"), "--mode=primed needs --audio_file=FILE"),
    (dict(mode="primed", audio_file="a.wav"), "needs --prompt_length_in_seconds, how much of the audio"),
    (dict(mode="primed", audio_file="b.wav", prompt_length_in_seconds=1), "--audio_file=b.wav: there is no such file"),
    (
        dict(mode="primed", audio_file="a.wav", prompt_length_in_seconds=0.01),
        "=0.01 is shorter than one token of the top level: use 0.0640 or more",
    ),
    (
        dict(mode="primed", audio_file="a.wav", prompt_length_in_seconds=24),
        "=24 leaves nothing to make after 24.00 s of prompt: use more than 24.00",
    ),
    (dict(audio_file="a.wav"), "--audio_file is for --mode=primed, not --mode=ancestral"),
    (dict(prompt_length_in_seconds=3), "--prompt_length_in_seconds is for the other modes"),
    (dict(mode="continue"), "--mode=continue needs --codes_file, such as EARLIER_RUN/level_2/data.pth.tar"),
    (dict(mode="upsample"), "--mode=upsample needs --codes_file"),
    (dict(codes_file="codes.pth.tar"), "--codes_file is for --mode=continue or --mode=upsample, not --mode=ancestral"),
    (dict(mode="continue", codes_file="x.pth.tar"), "x.pth.tar does not exist"),
    (dict(mode="continue", codes_file="a.wav"), "a.wav is damaged or no PyTorch file"),
    (dict(mode="continue", codes_file="list.pth.tar"), "list.pth.tar holds no codes"),
    (dict(mode="continue", codes_file="two.pth.tar"), "holds codes of 2 levels, model .* has 3"),
    (dict(mode="continue", codes_file="large.pth.tar"), "holds code 16, model .* knows 0 to 15"),
    (dict(mode="continue", codes_file="empty.pth.tar"), "holds no codes of the top level"),
    (
        dict(mode="continue", codes_file="codes.pth.tar", sample_length_in_seconds=6.4),
        "leaves nothing to make after 6.40 s of saved codes: use more than 6.40",
    ),
    (
        dict(mode="continue", codes_file="codes.pth.tar", prompt_length_in_seconds=7),
        "the saved codes hold 6.40 s; use that or less",
    ),
    (
        dict(mode="upsample", codes_file="codes.pth.tar", sample_length_in_seconds=10),
        "=10: --mode=upsample has 6.40 s of codes; use that or less",
    ),
    (
        dict(mode="upsample", codes_file="whole.pth.tar"),
        "holds 6.40 s of all levels that --mode=upsample makes: give the file of level_2",
    ),
    # labels
    (dict(lyrics="a", lyrics_file="b"), "--lyrics and --lyrics_file exclude each other"),
    (dict(lyrics_file="none.txt"), "--lyrics_file=none.txt: there is no such file"),
    (dict(lyrics_file="latin.txt"), "--lyrics_file=latin.txt is not in UTF-8"),
    (dict(metas="no.json"), "--metas=no.json: there is no such file"),
    (dict(metas="bad.json"), "--metas=bad.json is no JSON"),
    (dict(metas="none.json"), "must hold a list of entries"),
    (dict(metas="key.json"), "entry 1 has an unknown key 'artst'; known: artist, genre, lyrics"),
    (dict(metas="type.json"), "artist of entry 0 is 5, not text"),
]


@pytest.mark.parametrize("flags, message", WRONG, ids=lambda value: str(value)[:60])
def test_wrong_uses(tiny: Model, files: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        settings(tiny, **flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, seconds, low",
    [("5b", 59, "60 s"), ("5b_lyrics", 23, "23.8 s"), ("1b_lyrics", 17, "17.84 s")],
)
def test_timing_ranges_of_the_released_models(released: dict[str, Model], name: str, seconds: float, low: str) -> None:
    with pytest.raises(UserError, match=f"knows songs of {low} up to, not including, 600 s"):
        settings(released[name], sample_length_in_seconds=10, total_sample_length_in_seconds=seconds)
    with pytest.raises(UserError, match="not including, 600 s"):
        settings(released[name], total_sample_length_in_seconds=600)
    with pytest.raises(UserError, match="use --sample_length_in_seconds=5.945 or more"):
        settings(released[name], sample_length_in_seconds=4)
    made = settings(released[name])
    assert made.metas[0]["total_length"] == 240 * 44100 and made.metas[0]["offset"] == 0
    assert made.hop_fraction == [0.5, 0.5, 0.125] and made.sample_length == 24 * 44100 // 128 * 128
    assert made.temp == [0.99] * 3 and made.metas[0]["artist"] == DEMO["artist"]
    assert settings(released[name], total_sample_length_in_seconds=599.99).metas[0]["total_length"] == 26459559


def test_the_whole_song_is_never_under_the_sample(released: dict[str, Model], tiny: Model) -> None:
    assert settings(released["5b"], sample_length_in_seconds=300).metas[0]["total_length"] == 300 * 44100 // 128 * 128
    made = settings(tiny)  # knows songs below 60 s
    assert made.metas[0]["total_length"] == 60 * 250 - 16
    assert "the imagined whole song is 59.9 s long" in " ".join(made.notices)


def test_a_suggested_hop_is_accepted(released: dict[str, Model]) -> None:
    with pytest.raises(UserError, match="must be a multiple of 4 from 4 up: use (.*)") as caught:
        settings(released["5b"], hop_fraction=(0.3, 0.3, 0.125))
    good = float(str(caught.value).rsplit(" ", 1)[1])
    assert abs(good - 0.3) < 0.001
    assert int(settings(released["5b"], hop_fraction=(good, good, 0.125)).new_per_window()[0]) % 4 == 0


def test_seconds_are_cut_to_tokens_and_it_is_said(released: dict[str, Model]) -> None:
    made = settings(released["5b"], sample_length_in_seconds=20)
    assert made.totals() == [110240, 27560, 6890]
    assert made.notices == ["20 s are cut to 19.9982 s, whole tokens of 128 samples"]


def test_one_value_or_one_per_level(tiny: Model) -> None:
    made = settings(tiny, temp=(0.9, 0.95, 1), top_k=4, max_batch_size=(3, 2, 1))
    assert made.temp == [0.9, 0.95, 1.0] and made.top_k == [4, 4, 4] and made.batch == [3, 2, 1]
    assert made.chunk == [None] * 3


def test_as_many_songs_as_are_given(tiny: Model, files: Path) -> None:
    primed = dict(mode="primed", prompt_length_in_seconds=1)
    assert settings(tiny).n_samples == 1
    assert settings(tiny, audio_file="a.wav,a.wav,a.wav", **primed).n_samples == 3
    assert settings(tiny, audio_file="a.wav,a.wav", n_samples=5, **primed).n_samples == 5
    assert settings(tiny, mode="continue", codes_file="codes.pth.tar").n_samples == 2


def test_metas_are_tiled_and_filled_up_from_flags(tiny: Model, files: Path) -> None:
    entries = [
        {"artist": "somebody", "lyrics": "one", "total_length_in_seconds": 50, "offset_in_seconds": 10.5},
        {"genre": "polka"},
    ]
    (files / "metas.json").write_text(json.dumps(entries), encoding="utf-8")
    made = settings(tiny, metas="metas.json", n_samples=3, genre="waltz", lyrics="two")
    assert made.metas[0] == dict(artist="somebody", genre="waltz", lyrics="one", total_length=12500, offset=2625)
    assert made.metas[1]["genre"] == "polka" and made.metas[1]["lyrics"] == "two"
    assert made.metas[1]["artist"] == "somebody"  # the first name of the model's own table
    assert made.metas[2] == made.metas[0]
    assert settings(tiny, metas="metas.json").n_samples == 2


def test_labels_of_saved_songs_are_kept(tiny: Model, files: Path) -> None:
    y = torch.tensor([[10_000, 250, 512, 1, 1], [10_001, 0, 512, 2, 2]])
    info = [dict(artist=a, genre="g", lyrics=a * 2, full_tokens=[]) for a in "xy"]
    zs = [torch.zeros(2, n, dtype=torch.long) for n in (0, 0, 100)]
    torch.save({"zs": zs, "labels": [None, None, {"y": y, "info": info}]}, "run.pth.tar")
    made = settings(tiny, mode="upsample", codes_file="run.pth.tar")
    assert made.metas[1] == dict(artist="y", genre="g", lyrics="yy", total_length=10_001, offset=0)
    assert made.metas[0]["offset"] == 250 and made.sample_length == 1600 and made.sample_levels == [0, 1]
    assert settings(tiny, mode="continue", codes_file="run.pth.tar", artist="z").metas[1]["artist"] == "z"


def test_flags_without_effect_are_told(tmp_path: Path) -> None:
    mute = find_model(make_tiny_runs(tmp_path / "mute", lyrics=False))
    assert any("trained without lyrics" in notice for notice in settings(mute, lyrics="la").notices)
    blank = find_model(make_tiny_runs(tmp_path / "blank", lyrics=False, labels=False).split(",")[-1])
    assert any("trained without labels" in notice for notice in settings(blank, artist="a").notices)


def test_lyrics_from_a_file(tiny: Model, files: Path) -> None:
    Path("words.txt").write_text("\ufeffOne\nTwo é", encoding="utf-8")
    assert settings(tiny, lyrics_file="words.txt").metas[0]["lyrics"] == "One\nTwo é"
