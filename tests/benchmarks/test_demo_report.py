"""The demo model's report: each formula on hand-made cases, the classifiers on real songs, and the whole script."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from demo import chain, classifiers, intervals, measures, report  # noqa: E402
from lyric_alignment import lit_errors  # noqa: E402

from jukebox.data.labels import Labeller  # noqa: E402
from jukebox.data.synthesizer import ARTISTS, GENRES, Song, make_song  # noqa: E402
from jukebox.hparams import Hyperparams, setup_hparams  # noqa: E402
from jukebox.make_models import make_prior, make_vqvae, save_checkpoint  # noqa: E402
from jukebox.utils.errors import UserError  # noqa: E402

SR, SECONDS = 8000, 4.1


def song(lyrics: str, times: list[tuple[float, float]], seconds: float = 4.0, sr: int = 100, **other: Any) -> Song:
    values = dict(artist="anna bell", genre="waltz", seed=0)
    return Song(np.zeros(round(seconds * sr), np.float32), sr, lyrics=lyrics, char_times=times, **{**values, **other})


# --------------------------------------------------------------------------------------------------------- statistics


def test_wilson_solves_its_equation() -> None:
    """The ends are the shares p whose distance from the one found is 1.96 of their own standard errors."""
    for right, n in [(8, 10), (1, 128), (64, 128), (127, 128)]:
        for p in intervals.wilson(right, n):
            assert abs(right / n - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / n), rel=1e-6)
    assert intervals.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # a textbook's example
    assert intervals.wilson(0, 10)[0] == 0 and intervals.wilson(10, 10)[1] == pytest.approx(1)
    assert intervals.wilson(0, 0) == (0, 1)


def test_the_bootstrap_draws_songs_not_values() -> None:
    generator = np.random.default_rng(1)
    means = generator.normal(3, 1, 200)
    songs = [np.full(50, mean) for mean in means]  # 10,000 values that say no more than 200 do
    low, high = intervals.bootstrap(songs)
    half = 1.96 * means.std() / math.sqrt(200)
    assert (low, high) == pytest.approx((means.mean() - half, means.mean() + half), abs=0.03)


def test_a_song_weighs_by_its_values() -> None:
    found = intervals.figure([[1, 1, 1], [0], []])
    assert found["value"] == 0.75 and (found["low"], found["high"]) == (0, 1)
    median = intervals.figure([[1, 2, 9]] * 4, np.median)
    assert (median["value"], median["low"], median["high"]) == (2, 2, 2)
    assert math.isnan(intervals.figure([])["value"]) and intervals.show(intervals.figure([])) == "-"


def test_differences_are_paired() -> None:
    right = np.array([1.0, 5.0, 9.0, 20.0])
    found = intervals.difference(right, right + 0.25)
    assert (found["value"], found["low"], found["high"]) == pytest.approx((0.25, 0.25, 0.25))
    assert intervals.difference([1, 2], [0, 0])["value"] == -1.5


def test_decibels_are_of_the_mean() -> None:
    found = intervals.decibels([0.05, 0.15])
    assert found["value"] == pytest.approx(-20) and found["low"] < -20 < found["high"] and found["n"] == 2


def test_chance_is_what_dealt_out_guesses_would_get() -> None:
    truth = np.repeat(np.arange(4), 8)
    assert intervals.chance(truth, np.zeros(32, int)) == 0.25
    truth, guess = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 2])
    dealt = [np.mean(truth == guess[list(order)]) for order in itertools.permutations(range(4))]
    assert intervals.chance(truth, guess) == pytest.approx(np.mean(dealt))


def test_shares_of_songs_and_letters() -> None:
    truth, guess = np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0])
    found = intervals.share_of_songs(truth, guess)
    assert (found["value"], found["n"], found["chance"]) == (0.75, 4, 0.25)
    letters = intervals.share_of_letters([(truth, guess), (truth[:1], guess[:1])])
    assert (letters["value"], letters["n"], letters["letters"]) == (0.8, 2, 5)


def test_tables_are_markdown() -> None:
    assert intervals.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert intervals.show(dict(value=0.5, low=0.25, high=0.75)) == "0.50 (0.25 to 0.75)"


# ------------------------------------------------------------------------------------------------------- classifiers


def test_the_middle_of_each_sung_letter() -> None:
    starts, ends = [0, 0.2, 0.5, 0.6, math.nan], [0.2, 0.5, 0.6, 1.0, math.nan]
    assert classifiers.sung("ma ie", starts, ends, ("a", "i", "e"), 2.0) == [("a", 0.35), ("i", 0.8)]
    assert classifiers.sung("ma ie", starts, ends, ("a", "i", "e"), 0.8) == [("a", 0.35)]


def test_moments_are_cut_around_their_middle() -> None:
    hop, half = classifiers.frame_hop(SR), classifiers.FRAMES // 2
    mel = torch.arange(100.0).repeat(classifiers.MELS, 1)
    found = classifiers.cut(mel, [50 * hop / SR, 0.0, 99 * hop / SR], SR)
    assert found.shape == (3, classifiers.MELS, classifiers.FRAMES)
    assert found[0, 3].tolist() == list(range(50 - half, 51 + half))
    assert found[1, 0].tolist() == [0] * half + list(range(half + 1))
    assert found[2, 0, -1] == 99
    assert classifiers.cut(mel, [], SR).shape == (0, classifiers.MELS, classifiers.FRAMES)


def test_a_tone_is_in_its_mel_band() -> None:
    t = torch.arange(SR) / SR
    filters = classifiers.mel_filters(SR)
    for hz in (300.0, 1000.0, 3000.0):
        mel = classifiers.log_mel(torch.sin(2 * torch.pi * hz * t)[None], SR)[0]
        assert mel.shape[1] == SR // classifiers.frame_hop(SR) + 1
        assert mel.max() == 0 and mel.min() >= -classifiers.RANGE
        bin_of_tone = round(hz / SR * classifiers.FFT)
        assert filters[mel.mean(1).argmax(), bin_of_tone] > 0


def test_classifiers_hear_real_songs() -> None:
    made = [make_song(classifiers.TRAIN_SEED + i, SR, SECONDS) for i in range(200)]
    ear = classifiers.Listeners.train(made, classifiers.stack(made), SR, steps=260)
    new = [make_song(report.TEST_SEED + i, SR, SECONDS) for i in range(48)]
    audio = classifiers.stack(new)
    for kind in ("artist", "genre"):
        truth, guess = ear.songs(kind, audio, SR, [getattr(song, kind) for song in new])
        assert np.mean(truth == guess) > 0.9, kind
    for kind in ("vowel", "consonant"):
        pairs = ear.letters(kind, audio, SR, [song.lyrics for song in new], chain.true_times(new))
        assert intervals.share_of_letters(pairs)["value"] > 0.9, kind
    deaf = ear.letters("vowel", torch.zeros_like(audio), SR, [s.lyrics for s in new], chain.true_times(new))
    assert intervals.share_of_letters(deaf)["value"] == pytest.approx(0.2, abs=0.1)  # silence says nothing


# ----------------------------------------------------------------------------------------------------------- measures


def test_labels_are_wrong_in_one_way_each() -> None:
    songs = [make_song(10 * i + j, SR, SECONDS, genre=genre) for i in range(3) for j, genre in enumerate(GENRES)]
    found = measures.label_variants(songs, lyrics=True)
    right = found.pop("right")
    differing = {"wrong artist": {"artist"}, "wrong genre": {"genre"}, "no lyrics": {"lyrics"}}
    for name, metas in found.items():
        wanted = differing.get(name, {"artist", "genre", "lyrics"} if "unknown" in name else {"lyrics"})
        for a, b in zip(right, metas, strict=True):
            assert {key for key in a if a[key] != b[key]} == wanted, name
    by_lyrics = {song.lyrics: song.genre for song in songs}
    assert all(by_lyrics[m["lyrics"]] == m["genre"] for m in found["another song's lyrics, same genre"])


def test_other_letters_keep_the_shape() -> None:
    text = "lama tiso\nkumi"
    other = measures.other_letters(text, 3)
    assert [c if c.isspace() else "v" if c in "aeiou" else "c" for c in other] == list("cvcv cvcv\ncvcv")
    assert all(a != b for a, b in zip(text, other, strict=True) if not a.isspace())


def test_entropy_and_use_of_codes() -> None:
    z = torch.tensor([[0, 0, 1, 3]])
    x = torch.randn(1, 4096)
    found = measures.codec_figures(x, 0.5 * x, z, bins=4, samples_per_code=10, sr=1000)
    assert (found["codes_used"], found["entropy_bits"], found["kbit_per_second"]) == (3, 1.5, 0.2)
    assert found["spectral_convergence_db"]["value"] == pytest.approx(20 * math.log10(0.5), abs=1e-3)


class EvenPrior:
    """Expects the codes above and the labels to be the song's own: then a code takes 1 bit, else 3."""

    level, n_ctx, x_cond, y_cond, cond_downsample, n_tokens = 0, 8, True, False, 4, 0

    def get_z_conds(self, zs: Any, start: int, end: int) -> Any:
        assert start % 4 == 0 and end - start == self.n_ctx
        return [zs[1][:, start // 4 : end // 4]]

    def z_forward(self, z: Any, above: Any, y: Any, get_preds: bool) -> Any:
        logits = torch.zeros(len(z), self.n_ctx, 8)
        for i in range(len(z)):
            if bool((above[0][i] == z[i, 0]).all()):
                logits[i].scatter_(1, z[i, :, None], math.log(7.0))  # p = 7 / (7 + 7)
        return None, {"preds": logits}

    class labeller:  # noqa: N801
        @staticmethod
        def get_batch_labels(metas: Any) -> dict[str, Any]:
            return {}


def test_bits_are_paired_by_song() -> None:
    zs = [torch.tensor([[1] * 21, [2] * 21, [3] * 21]), torch.tensor([[1] * 5, [2] * 5, [3] * 5])]
    songs = [song("", [])] * 3
    found = measures.upsampler_bits(EvenPrior(), zs, songs, windows=3)
    own, other = found["its own codes above"], found["another song's codes above"]
    assert own["bits"]["value"] == pytest.approx(1) and other["bits"]["value"] == pytest.approx(3)
    assert other["more"]["value"] == other["more_first"]["low"] == pytest.approx(2) and "more" not in own


def test_the_distance_of_the_lit_character() -> None:
    times = [(0.0, 1.0), (1.0, 1.5), (1.5, 2.0), (2.0, 3.0)]
    errors, even = lit_errors(song("ma i", times), [0, 0, 1, 3, -1, 3], per_code=0.5)
    assert errors == pytest.approx([0, 0, 0, 0.25, 4.0, 0])
    assert even == pytest.approx([0, 0, 0, 0.25, 0.25, 0.75])
    assert lit_errors(song("", []), [0, 0], 0.5) == ([], [])


def test_loudness_flatness_and_onsets() -> None:
    t = torch.arange(4 * SR) / SR
    tone, noise = torch.sin(2 * torch.pi * 440 * t), torch.randn(4 * SR, generator=torch.Generator().manual_seed(0))
    beats = torch.zeros(4 * SR)
    for i in range(8):
        start = int((0.25 + 0.5 * i) * SR)
        beats[start : start + 800] = noise[:800] * torch.linspace(1, 0, 800)
    found = measures.sound_figures(torch.stack([tone, noise, beats]), SR)
    assert found["rms_db"][0] == pytest.approx(-3.01, abs=0.02)
    assert found["flatness"][0] < 0.01 and 0.4 < found["flatness"][1] < 0.7  # 0.56 for noise
    assert found["onsets_per_second"][0] < 0.6 and found["onsets_per_second"][2] == pytest.approx(2, abs=0.3)


# --------------------------------------------------------------------------------------------------- the whole script

VQVAE = dict(
    levels=3, downs_t=[1, 1, 1], strides_t=[8, 4, 4], emb_width=8, l_bins=32, width=8, depth=1, sr=SR, channels=1
)
PRIOR = dict(n_ctx=128, prior_width=16, prior_depth=2, heads=1, attn_order=2, blocks=8, prior=True, cond_width=8)
TOP = dict(
    labels=True,
    labels_v3=True,
    y_bins=[5, 5],
    max_bow_genre_size=1,
    t_bins=8,
    min_duration=1.0,
    max_duration=60.0,
    use_tokens=True,
    n_tokens=64,
    n_vocab=79,
    attn_order=6,
    prior_depth=4,
    prime_width=16,
    prime_depth=1,
    alignment_layer=3,
    alignment_head=0,
    alignment_shift=1,
)


def small_runs(folder: Path) -> list[str]:
    """An untrained model of three levels, in the places where training leaves its parts: VQ-VAE, level 0, 1 and top."""
    torch.manual_seed(0)
    paths = [folder / name for name in ("vqvae", "level_0", "level_1", "level_2")]
    file = "checkpoint_latest.pth.tar"
    hps = setup_hparams("", {**VQVAE, "sample_length": 16384})
    vqvae = make_vqvae(Hyperparams(hps), "cpu")
    save_checkpoint(paths[0] / file, hps, vqvae)
    tables = [{"unknown": 0, **{name: i + 1 for i, name in enumerate(names)}} for names in (ARTISTS, GENRES)]
    for level in range(3):
        own = TOP if level == 2 else dict(labels=False)
        hps = setup_hparams("", {**VQVAE, **PRIOR, **own, "level": level})
        prior = make_prior(Hyperparams(hps), vqvae, "cpu")
        labels = Labeller(1, 64, prior.sample_length, True, *tables).state() if level == 2 else None
        hps["restore_vqvae"] = str(paths[0] / file)
        save_checkpoint(paths[1 + level] / file, hps, prior, labels=labels)
    return [str(path) for path in paths]


def run(**flags: Any) -> int:
    return report.main(**{**{flag.name: flag.default for flag in report.FLAGS}, "seconds": SECONDS, **flags})


def test_the_whole_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = small_runs(tmp_path)
    out, page = tmp_path / "demo.json", tmp_path / "demo.md"
    page.write_text("# Demo\n\n<!-- figures -->\nold\n<!-- /figures -->\n\nEnd.\n", encoding="utf-8")
    run(model=",".join(runs), quick=True, out=str(out), page=str(page), keep=str(tmp_path / "songs"))
    results = json.loads(out.read_text())["results"]
    assert set(results) == {"codes", "bits", "lit", "head", "heard", "confusion", "sound", "settings"}
    names = [row["audio"] for row in results["heard"]]
    assert names == ["real songs", *(f"{what}, level {i}" for what in ("VQ-VAE", "made") for i in (2, 1, 0))]
    assert set(results["heard"][-1]["vowel"]) == {"score", "lit"} and set(results["heard"][0]["vowel"]) == {
        "true",
        "lit",
    }
    assert list(results["bits"]) == ["2", "1", "0"] and len(results["bits"]["2"]) == 7
    made = results["heard"][-1]["genre"]["real"]
    assert made["n"] == 16 and made["chance"] == 0.25 and 0 <= made["low"] <= made["value"] <= made["high"] <= 1
    assert sum(sum(heard.values()) for heard in results["confusion"]["artist"].values()) == 16
    assert len(list((tmp_path / "songs").glob("*.flac"))) == 16
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Demo\n\n<!-- figures -->\n\n16 held-out songs") and text.endswith("-->\n\nEnd.\n")
    assert "old" not in text and text.count("\n### ") == 8
    assert " nan" not in text
    assert "### What the codes keep" in capsys.readouterr().out


def test_parts_that_are_missing_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = small_runs(tmp_path)
    out = tmp_path / "demo.json"
    with pytest.raises(UserError, match="--seconds=1"):
        run(model=runs[0], quick=True, seconds=1)
    demo_window = chain.WINDOW
    chain.WINDOW = 128
    try:
        run(model=runs[0], quick=True, out=str(out))
    finally:
        chain.WINDOW = demo_window
    assert set(json.loads(out.read_text())["results"]) == {"codes", "bits", "heard", "settings"}
    run(model=",".join((runs[0], runs[3])), quick=True, out=str(out))
    results = json.loads(out.read_text())["results"]
    assert [row["audio"] for row in results["heard"]][4:] == ["made, level 2"]


def test_markers_are_needed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no place", encoding="utf-8")
    with pytest.raises(UserError, match="no place for the figures"):
        run(page=str(page), quick=True)
    assert page.read_text(encoding="utf-8") == "no place"


def test_songs_are_as_long_as_those_of_the_training() -> None:
    """Labels say how long a song is; other lengths would be new to the model."""
    commands = (ROOT / "examples" / "demo_model.py").read_text(encoding="utf-8")
    assert re.search(rf"--out={{PRIOR_DATA}} --songs=\d+ --seconds={report.SECONDS:g} ", commands)
