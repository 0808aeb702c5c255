"""Every wrong use is refused before anything is loaded, in one line that says what to type instead."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_tiny_runs

from jukebox import sample
from jukebox.loaders import Model, find_model
from jukebox.prior.logits import SamplingOptions
from jukebox.sampling.flags import read_settings
from jukebox.sampling.report import Silent
from jukebox.sampling.settings import Settings
from jukebox.sampling.songs import DEMO, make_labels
from jukebox.utils.command_line import parse_flags
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import at_most, enough
from jukebox.utils.label_row import SIGNALS, Signal


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
    odd = {
        "negative": [torch.full((1, n), -1) for n in (0, 0, 100)],
        "float": [torch.zeros(1, n) for n in (0, 0, 100)],
        "counts": [torch.zeros(songs, 100, dtype=torch.long) for songs in (1, 1, 2)],
        "nobody": [torch.zeros(0, 100, dtype=torch.long)] * 3,
        "short": [torch.zeros(1, n, dtype=torch.long) for n in (0, 0, 10)],
    }
    for name, zs in odd.items():
        torch.save({"zs": zs}, f"{name}.pth.tar")
    zs = [torch.zeros(2, n, dtype=torch.long) for n in (0, 0, 100)]
    info, y = [{"artist": "a"}] * 2, torch.zeros(2, 5, dtype=torch.long)
    labels: dict[str, Any] = {
        "text": ["abc"],
        "info": [{"info": [1, 2], "y": y}],
        "few": [{"info": info[:1], "y": y}],
        "y": [{"info": info, "y": "y"}],
        "floats": [{"info": info, "y": y / 3}],
        "rows": [{"info": info, "y": y[:1]}],
    }
    for name, entry in labels.items():
        torch.save({"zs": zs, "labels": entry}, f"labels_{name}.pth.tar")
    for name, number in {"minus": "-1", "nan": "NaN", "inf": "1e999", "zero": "0"}.items():
        key = "total_length_in_seconds" if name == "zero" else "offset_in_seconds"
        Path(f"{name}.json").write_text(f'[{{}}, {{"{key}": {number}}}]')
    Path("late.json").write_text('[{}, {"offset_in_seconds": 50}]')
    torch.save([1, 2], "list.pth.tar")
    Path("bad.json").write_text("{")
    Path("key.json").write_text(json.dumps([{"artist": "a"}, {"artst": "b"}]))
    Path("type.json").write_text(json.dumps([{"artist": 5}]))
    Path("none.json").write_text("[]")
    Path("far.json").write_text(json.dumps([{"offset_in_seconds": 30, "total_length_in_seconds": 31}]))
    Path("latin.txt").write_bytes(b"\xff\xfeC")
    return tmp_path


def settings(model: Model, **flags: Any) -> Settings:
    return read_settings({"name": "out", **flags}, model)


WRONG = [
    (dict(name=""), "--name is missing: give the folder to write to"),
    (dict(mode="remix"), "--mode=remix: choose ancestral, primed, continue or upsample"),
    (dict(levels=2), "--levels=2: model .* has 3 levels; use 3 or leave it out"),
    (dict(sr=44100), "--sr=44100: model .* makes 250 Hz"),
    (dict(n_samples=0), "--n_samples=0: must be 1 or more"),
    (dict(n_samples=float("inf")), "--n_samples=inf: give a whole number"),
    (dict(seed=float("nan")), "--seed=nan: give a whole number"),
    (dict(temp=10**400), "--temp=1.*0: give a number"),
    (dict(port=70000), "--port=70000: must be 65535 or less"),
    (dict(port="x"), "--port=x: give a whole number"),
    (dict(device="cpu:3"), "--device=cpu:3: choose cuda, cuda:0 .*, mps or cpu"),
    (dict(n_samples=1.5), "--n_samples=1.5: give a whole number"),
    (dict(seed="x"), "--seed=x: give a whole number"),
    (dict(format="ogg"), "--format=ogg: choose wav, flac or mp3"),
    (dict(dtype="int4"), "--dtype=int4: choose fp32, fp16, bf16 or int8"),
    # lengths
    (dict(sample_length_in_seconds=0), "--sample_length_in_seconds=0: must be above 0"),
    (dict(sample_length_in_seconds="long"), "--sample_length_in_seconds=long: give a number"),
    (dict(sample_length_in_seconds=0.05), "shorter than one token of the top level: use 1.024 or more"),
    (
        dict(sample_length_in_seconds=1.0),
        r"0.96 s are too short: an upsampler works on 1.024 s .* "
        "use --sample_length_in_seconds=1.024 or more",
    ),
    (dict(sample_length_in_seconds=70), "^--sample_length_in_seconds=70: .* ends at 60 s; use 59.904 or less"),
    (dict(total_sample_length_in_seconds=20), "=20 is shorter than the 24.00 s .* use 24.000 or more"),
    (dict(total_sample_length_in_seconds=60), "=60: the model knows songs of 2 s up to, not including, 60 s"),
    (
        dict(sample_length_in_seconds=1.2, total_sample_length_in_seconds=1.5),
        "=1.5: the model knows songs of 2 s up to, not including, 60 s",
    ),
    (dict(metas="far.json"), "total_length_in_seconds of song 0=31 is shorter than the 54.00 s"),
    (dict(metas="minus.json"), "--metas=minus.json: offset_in_seconds of entry 1 is -1: give seconds, 0 or more"),
    (dict(metas="nan.json"), "offset_in_seconds of entry 1 is nan: give seconds"),
    (dict(metas="inf.json"), "offset_in_seconds of entry 1 is inf: give seconds"),
    (dict(metas="zero.json"), "total_length_in_seconds of entry 1 is 0: give seconds, more than 0"),
    (dict(metas="late.json"), "offset_in_seconds of song 1 is 50: .* ends at 60 s, .* use 35.936 or less"),
    (dict(sample_length_in_seconds=1e300), "^--sample_length_in_seconds=1e.300: must be 1,000,000,000 or less"),
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
        "=0.01 is shorter than one token of the top level: use 0.064 or more",
    ),
    (
        dict(mode="primed", audio_file="a.wav", prompt_length_in_seconds=24),
        "=24 leaves nothing to make after 24.00 s of prompt: use 24.064 or more",
    ),
    (dict(audio_file="a.wav"), "--audio_file is for --mode=primed, not --mode=ancestral"),
    (dict(prompt_length_in_seconds=3), "--prompt_length_in_seconds is for the other modes"),
    (dict(mode="continue"), "--mode=continue needs --codes_file, such as EARLIER_RUN/level_2/data.pth.tar"),
    (dict(mode="upsample"), "--mode=upsample needs --codes_file"),
    (dict(codes_file="codes.pth.tar"), "--codes_file is for --mode=continue or --mode=upsample, not --mode=ancestral"),
    (dict(mode="continue", codes_file="x.pth.tar"), "^--codes_file=x.pth.tar: there is no such file; give the"),
    (dict(mode="continue", codes_file="a.wav"), "^--codes_file: a.wav is damaged or not a PyTorch file"),
    (dict(mode="continue", codes_file="list.pth.tar"), "list.pth.tar holds no codes"),
    (dict(mode="continue", codes_file="two.pth.tar"), "holds codes of 2 levels, model .* has 3"),
    (dict(mode="continue", codes_file="large.pth.tar"), "holds code 16, model .* knows 0 to 15"),
    (dict(mode="continue", codes_file="negative.pth.tar"), "--codes_file=.* holds code -1, model .* knows 0 to 15"),
    (dict(mode="continue", codes_file="float.pth.tar"), "--codes_file=.* holds codes of type torch.float32"),
    (dict(mode="continue", codes_file="counts.pth.tar"), "--codes_file=.* holds 1, 1, 2 songs at its levels"),
    (dict(mode="continue", codes_file="nobody.pth.tar"), "--codes_file=.* holds 0, 0, 0 songs at its levels"),
    (dict(mode="upsample", codes_file="short.pth.tar"), "on 1.024 s at a time; give codes of that length or more"),
    *[
        (dict(mode="continue", codes_file=f"labels_{name}.pth.tar"), "--codes_file=.* labels that do not belong")
        for name in ("text", "info", "few", "y", "floats", "rows")
    ],
    (dict(mode="continue", codes_file="empty.pth.tar"), "holds no codes of the top level"),
    (
        dict(mode="continue", codes_file="codes.pth.tar", sample_length_in_seconds=6.4),
        "leaves nothing to make after 6.40 s of saved codes: use 6.464 or more",
    ),
    (
        dict(mode="continue", codes_file="codes.pth.tar", prompt_length_in_seconds=7),
        "=7: the saved codes end there, use 6.400 or less",
    ),
    (
        dict(mode="upsample", codes_file="codes.pth.tar", sample_length_in_seconds=10),
        "=10: the codes to upsample end there, use 6.400 or less",
    ),
    (
        dict(mode="upsample", codes_file="whole.pth.tar"),
        "holds 6.40 s of all levels that --mode=upsample makes: give the file of level_2",
    ),
    # labels
    (dict(lyrics="a", lyrics_file="b"), "--lyrics and --lyrics_file exclude each other"),
    (dict(lyrics_file="none.txt"), "--lyrics_file=none.txt: there is no such file"),
    (dict(lyrics_file="latin.txt"), "--lyrics_file=latin.txt is not text in UTF-8"),
    (dict(metas="no.json"), "--metas=no.json: there is no such file"),
    (dict(metas="bad.json"), "--metas=bad.json is not JSON"),
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
    assert [one.temp for one in made.drawing] == [0.99] * 3 and made.metas[0]["artist"] == DEMO["artist"]
    assert settings(released[name], total_sample_length_in_seconds=599.99).metas[0]["total_length"] == 26459559


def test_the_whole_song_is_never_under_the_sample(released: dict[str, Model], tiny: Model) -> None:
    assert settings(released["5b"], sample_length_in_seconds=300).metas[0]["total_length"] == 300 * 44100 // 128 * 128
    made = settings(tiny)  # knows songs below 60 s
    assert made.metas[0]["total_length"] == 60 * 250 - 16
    assert "the imagined whole song is 59.9 s long, the most that the model knows" in " ".join(made.remarks)


def test_the_demo_model_sings_what_it_knows_where_nothing_is_said(released: dict[str, Model]) -> None:
    demo = find_model("demo")
    made = settings(demo)
    assert made.metas[0]["total_length"] == int(10.04 * 11025) and made.sample_length == 110592
    assert "\n".join(made.remarks) == (
        "not given and taken: --sample_length_in_seconds=10.04\n"
        'not given and taken: --artist="anna bell" --genre="blues" '
        '--lyrics="mila sola timi kalu mesi loki sama tole kisu"\n'
        "the imagined whole song is 10.0 s long, the model knows songs of 10.04 s"
    )
    level = demo.top
    assert level is not None and not level.labeller.unknown_characters(made.metas[0]["lyrics"])
    syllables = made.metas[0]["lyrics"].split()
    assert all(re.fullmatch("([mlstk][aeiou]){2}", word) for word in syllables)
    words = dict(artist="otto organ", genre="reggae", lyrics="la")
    said = settings(demo, sample_length_in_seconds=6, total_sample_length_in_seconds=8, **words)
    assert said.metas[0]["total_length"] == 8 * 11025 and not any("taken" in line for line in said.remarks)
    assert settings(demo, sample_length_in_seconds=20).metas[0]["total_length"] == 20 * 11025 // 128 * 128
    poem = next(line for line in settings(released["5b"]).remarks if "taken" in line)
    assert poem == 'not given and taken: --artist="Alan Jackson" --genre="Country"'  # a model without lyrics
    assert '--lyrics="I met a traveller' in " ".join(settings(released["1b_lyrics"]).remarks)


def test_help_names_the_demo_model() -> None:
    assert "demo" in next(flag.help for flag in sample.FLAGS if flag.name == "model") and "--model=demo" in (
        sample.DESCRIPTION
    )


def test_a_suggested_hop_is_accepted(released: dict[str, Model]) -> None:
    with pytest.raises(UserError, match="must be a multiple of 4 from 4 up: use (.*)") as caught:
        settings(released["5b"], hop_fraction=(0.3, 0.3, 0.125))
    good = float(str(caught.value).rsplit(" ", 1)[1])
    assert abs(good - 0.3) < 0.001
    assert int(settings(released["5b"], hop_fraction=(good, good, 0.125)).new_per_window()[0]) % 4 == 0


def test_seconds_are_cut_to_tokens_and_it_is_said(released: dict[str, Model]) -> None:
    made = settings(released["5b"], sample_length_in_seconds=20, artist="a", genre="b")
    assert made.totals() == [110240, 27560, 6890]
    assert made.remarks == ["--sample_length_in_seconds=20 is cut to 19.9982 s, whole tokens of 128 samples"]


SUGGESTING = [(flags, message) for flags, message in WRONG if " or more" in message or " or less" in message]


@pytest.mark.parametrize("flags, message", SUGGESTING, ids=lambda value: str(value)[:60])
def test_what_is_suggested_is_accepted(tiny: Model, files: Path, flags: dict[str, Any], message: str) -> None:
    """Whatever a message tells to type for the flag that it begins with works, also where it rounded."""
    tell_and_take(tiny, flags)


def tell_and_take(model: Model, flags: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        settings(model, **flags)
    text = str(caught.value)
    found = re.search(r"use (?:--(\w+)=)?([\d.]+) or (?:more|less)", text)
    if not found:
        assert "codes of that length" in text or "must be" in text or "0 or more" in text or "more than 0" in text, text
        return
    flag = found[1] or re.match(r"--(\w+)=", text)
    if flag is None:  # of an entry of --metas
        metas = json.loads(Path(flags["metas"]).read_text())
        key = text.split(" of ")[0]
        metas[-1][key] = float(found[2])
        Path("better.json").write_text(json.dumps(metas))
        settings(model, **{**flags, "metas": "better.json"})
        return
    name = flag if isinstance(flag, str) else flag[1]
    settings(model, **{**flags, name: float(found[2])})


@pytest.mark.parametrize("rate_model", ["5b", "5b_lyrics"])
@pytest.mark.parametrize(
    "flags",
    [
        dict(sample_length_in_seconds=0.001),
        dict(sample_length_in_seconds=4),
        dict(sample_length_in_seconds=1000),
        dict(mode="primed", audio_file="a.wav", prompt_length_in_seconds=0.002),
        dict(mode="primed", audio_file="a.wav", prompt_length_in_seconds=5.9999, sample_length_in_seconds=6),
        dict(mode="primed", audio_file="a.wav", prompt_length_in_seconds=2, sample_length_in_seconds=1),
        dict(sample_length_in_seconds=61.237, total_sample_length_in_seconds=61.1),
        dict(mode="upsample", codes_file="codes.pth.tar", sample_length_in_seconds=30),
        dict(mode="continue", codes_file="codes.pth.tar", prompt_length_in_seconds=30, sample_length_in_seconds=60),
        dict(mode="continue", codes_file="codes.pth.tar", sample_length_in_seconds=20),
    ],
    ids=str,
)
def test_what_is_suggested_is_accepted_at_44100_hz(
    released: dict[str, Model], files: Path, rate_model: str, flags: dict[str, Any]
) -> None:
    torch.save({"zs": [torch.zeros(1, n, dtype=torch.long) for n in (0, 0, 7001)]}, "codes.pth.tar")
    tell_and_take(released[rate_model], flags)


def test_times_that_are_enough_and_no_more() -> None:
    for sr in (250, 11025, 44100):
        for samples in [*range(0, 2000, 7), 10**7 + 1]:
            assert int(float(enough(samples, sr)) * sr) >= samples > int((float(enough(samples, sr)) - 0.001) * sr) - 1
            assert float(at_most(samples, sr)) * sr <= samples < (float(at_most(samples, sr)) + 0.0011) * sr + 1


def test_what_is_cut_is_told(tiny: Model, files: Path) -> None:
    primed = dict(mode="primed", audio_file="a.wav", sample_length_in_seconds=2.56)
    told = settings(tiny, **primed, prompt_length_in_seconds=1.3).remarks
    assert told[0] == "--prompt_length_in_seconds=1.3 is cut to 1.2800 s, whole tokens of 16 samples"
    up = dict(mode="upsample", codes_file="codes.pth.tar")
    shorter = settings(tiny, **up, sample_length_in_seconds=5)
    assert shorter.remarks[0] == "--sample_length_in_seconds=5 is cut to 4.9920 s, whole tokens of 16 samples"
    assert not any("is cut to" in remark for remark in settings(tiny, **up).remarks)


def test_what_is_not_used_is_told(tiny: Model, files: Path) -> None:
    (files / "three.json").write_text("[{}, {}, {}]")
    primed = dict(mode="primed", audio_file="a.wav,a.wav,a.wav", prompt_length_in_seconds=1.024, n_samples=1)
    whole = dict(sample_length_in_seconds=2.56)
    assert "2 of 3 prompts left out: --n_samples=1" in settings(tiny, **primed, **whole).notices
    assert (
        "1 of 3 entries of --metas left out: --n_samples=2"
        in settings(tiny, metas="three.json", n_samples=2, **whole).notices
    )
    codes = dict(mode="upsample", codes_file="codes.pth.tar", n_samples=1)
    assert "1 of 2 songs of --codes_file left out: --n_samples=1" in settings(tiny, **codes).notices


def test_one_value_or_one_per_level(tiny: Model) -> None:
    made = settings(tiny, temp=(0.9, 0.95, 1), top_k=4, max_batch_size=(3, 2, 1))
    assert made.drawing == [SamplingOptions(temp, top_k=4) for temp in (0.9, 0.95, 1.0)] and made.batch == [3, 2, 1]
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
    again = dict(mode="continue", codes_file="run.pth.tar")
    assert settings(tiny, **again, artist="z").metas == [{**meta, "artist": "z"} for meta in made.metas]
    (files / "genre.json").write_text('[{"genre": "polka"}, {"offset_in_seconds": 2}, {"total_length_in_seconds": 50}]')
    mixed = settings(tiny, **again, metas="genre.json", lyrics="la").metas
    assert mixed == [
        dict(artist="x", genre="polka", lyrics="la", total_length=10_000, offset=250),
        dict(artist="y", genre="g", lyrics="la", total_length=10_001, offset=500),
        dict(artist="x", genre="g", lyrics="la", total_length=12_500, offset=250),
    ]
    longer = settings(tiny, **again, total_sample_length_in_seconds=45)
    assert [meta["total_length"] for meta in longer.metas] == [11_250, 11_250]


def test_codes_without_labels_are_whole_songs_when_they_are_upsampled(tiny: Model, files: Path) -> None:
    def save(tokens: int) -> dict[str, Any]:
        torch.save({"zs": [torch.zeros(1, n).long() for n in (0, 0, tokens)]}, "bare.pth.tar")
        return dict(mode="upsample", codes_file="bare.pth.tar")

    def total(**flags: Any) -> int:
        return settings(tiny, **flags).metas[0]["total_length"]

    upsample = save(100)  # 6.4 s
    assert total(**upsample) == total(**upsample, sample_length_in_seconds=3.2) == 1600
    assert total(**upsample, metas=[{"offset_in_seconds": 10}]) == 2500 + 1600
    assert settings(tiny, **upsample, artist="a", genre="b", lyrics="c").remarks == []
    assert total(**{**upsample, "mode": "continue"}) > 14_000  # under 60 s, the model's range
    # The top prior aligns the lyrics of the songs: its timing labels must know them.
    with pytest.raises(UserError, match="^--total_sample_length_in_seconds=300: the model knows songs of 2 s up to"):
        settings(tiny, **upsample, total_sample_length_in_seconds=300)
    with pytest.raises(UserError, match="^--sample_length_in_seconds=64: the model's timing ends at 60 s; use 59.9"):
        settings(tiny, **save(1000))
    assert total(**save(1000), sample_length_in_seconds=32) == 15_000 - 16
    mute = find_model(make_tiny_runs(files / "mute", lyrics=False))
    assert settings(mute, **save(1000)).metas[0]["total_length"] == 16_000  # nothing to align


def test_signals_come_from_the_flag_from_metas_and_from_saved_songs(
    tiny: Model, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIGNALS, "mood", Signal("a mood: calm or wild", 2, ["calm", "wild"].index))
    fresh = importlib.util.module_from_spec(sample.__spec__)
    sample.__spec__.loader.exec_module(fresh)
    assert parse_flags(["--mood=wild"], fresh.FLAGS) == {"mood": "wild"}
    (files / "moods.json").write_text('[{"mood": "calm"}, {"genre": "polka"}]')
    made = settings(tiny, mood="wild", metas="moods.json")
    assert [meta["mood"] for meta in made.metas] == ["calm", "wild"]
    assert any("was trained without signals=mood: it has no effect" in notice for notice in made.notices)
    info = [dict(artist="x", genre="g", lyrics="", mood="wild", full_tokens=[])]
    y = torch.tensor([[10_000, 250, 512, 1, 1]])
    torch.save(
        {"zs": [torch.zeros(1, n).long() for n in (0, 0, 100)], "labels": [None, None, dict(y=y, info=info)]}, "r"
    )
    assert settings(tiny, mode="upsample", codes_file="r").metas[0]["mood"] == "wild"
    for wrong in (dict(mood="sad"), dict(metas=[{"mood": 3}])):
        with pytest.raises(UserError, match="mood=.* is not known: give a mood: calm or wild"):
            settings(tiny, **wrong)
    labels = make_labels(tiny, made.metas, torch.device("cpu"), Silent())
    assert labels[2]["info"][0]["mood"] == "calm"


def test_flags_without_effect_are_told(tmp_path: Path) -> None:
    mute = find_model(make_tiny_runs(tmp_path / "mute", lyrics=False))
    assert any("trained without lyrics" in notice for notice in settings(mute, lyrics="la").notices)
    blank = find_model(make_tiny_runs(tmp_path / "blank", lyrics=False, labels=False).split(",")[-1])
    assert any("trained without labels" in notice for notice in settings(blank, artist="a").notices)


TIMED = "[ar:x]\n[00:00,50]ma\n[00:00,50]\u307e\n[00:01.00]lo"


def test_timed_lyrics_are_sung_without_their_stamps(tiny: Model, files: Path) -> None:
    sr = tiny.sr
    expected = [[round(a * sr), round(b * sr)] for a, b in [(0.5, 0.75), (0.75, 1), (1, 1), (1, 1.5), (1.5, 2)]]
    Path("timed.txt").write_text(TIMED, encoding="utf-16")
    Path("timed.json").write_text(json.dumps([{"lyrics": TIMED}]))
    for source in (dict(lyrics=TIMED), dict(lyrics_file="timed.txt"), dict(metas="timed.json")):
        made = settings(tiny, **source)
        assert made.metas[0]["lyrics"] == "ma\nlo" and made.metas[0]["times"] == expected
        assert any("the first is sung" in notice for notice in made.notices)
        assert settings(tiny, lyric_line=2, **source).metas[0]["lyrics"] == "\u307e\nlo"
    both = settings(tiny, lyrics=TIMED, metas=[dict(lyrics=r"one\ntwo\r\nthree\four\\nfive")]).metas[0]
    assert both["lyrics"] == "one\ntwo\nthree\\four\nfive" and "times" not in both
    late = settings(tiny, lyrics="[00:50.00]mi", sample_length_in_seconds=8).remarks
    assert any("first line of the lyrics is at 50.0 s, and the sample ends at 8.0 s" in line for line in late)
    Path("deep.json").write_text("[" * 100_000)
    Path("korean.json").write_bytes('[{"lyrics": "노래 노래 노래 노래 노래"}]'.encode("euc-kr"))
    for source in (dict(metas="korean.json"), dict(lyrics_file="korean.json")):
        korean = settings(tiny, **source)
        assert any("korean.json is not utf-8 and is read as cp949" in notice for notice in korean.notices)
        assert "노래 노래" in korean.metas[0]["lyrics"]
    Path("odd.json").write_bytes(bytes(range(256)) * 4)
    for name in ("deep.json", "odd.json"):
        with pytest.raises(UserError, match=name):
            settings(tiny, metas=name)
    label = tiny.levels[-1].labeller.get_label(**made.metas[0])  # type: ignore[union-attr]
    assert label["info"]["token_times"] == expected


def test_times_of_saved_songs_are_kept(tiny: Model, files: Path) -> None:
    codes = torch.load("codes.pth.tar", weights_only=True)
    info = [dict(artist="x", genre="g", lyrics="la", full_tokens=[1, 2], token_times=[[0, 9], [9, 20]])]
    torch.save({**codes, "labels": dict(y=torch.tensor([[10_000, 0]] * 2), info=info * 2)}, "timed.pth.tar")
    again = dict(mode="continue", codes_file="timed.pth.tar", sample_length_in_seconds=8)
    assert settings(tiny, **again).metas[0]["times"] == [[0, 9], [9, 20]]
    assert "times" not in settings(tiny, **again, lyrics="lo").metas[0]


def test_lyrics_from_a_file(tiny: Model, files: Path) -> None:
    Path("words.txt").write_text("\ufeffOne\nTwo é", encoding="utf-8")
    assert settings(tiny, lyrics_file="words.txt").metas[0]["lyrics"] == "One\nTwo é"
