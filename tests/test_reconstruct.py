"""Songs through `reconstruct.py`: the figures, the windows, what is written and what is said of wrong uses. The page in
a browser is in `tests/page/test_reconstruct_page.py`.
"""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import SR, VQVAE, make_tiny_runs
from torch.nn.functional import pad

from jukebox.data.synthesizer import make_song
from jukebox.hparams import Hyperparams, setup_hparams
from jukebox.loaders import find_vqvae, load_vqvae
from jukebox.make_models import make_vqvae, save_checkpoint
from jukebox.page.parts import clean
from jukebox.page.pictures import png
from jukebox.reconstruct import FLAGS, main
from jukebox.reconstruction import figures as figures_module
from jukebox.reconstruction.coder import Coder, decoder_reach, encoder_reach
from jukebox.reconstruction.figures import Figures, joined, measure, spectra, spectral_convergence, text_table
from jukebox.reconstruction.reconstructor import Reconstructor
from jukebox.reconstruction.spectrogram import ROWS, mel_decibels, palette, picture, ticks
from jukebox.utils.audio.read import load_audio
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError
from jukebox.utils.files import only_writer
from jukebox.vqvae.losses import StftSettings, decibels, magnitudes
from jukebox.vqvae.losses import spectral_convergence as convergence_of_the_losses

ROOT = Path(__file__).parents[1]
DEFAULTS = {flag.name: flag.default for flag in FLAGS}
SAMPLES_PER_CODE = [4, 8, 16]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_run(path: Path, **more: Any) -> str:
    """A checkpoint of an untrained VQ-VAE whose codebooks are spread over its latents, so that all codes turn up."""
    torch.manual_seed(0)
    hps = setup_hparams("", {**VQVAE, **more})
    vqvae = make_vqvae(Hyperparams(hps), "cpu")
    if hps.use_bottleneck:
        x = 0.5 * torch.randn(1, 1, 4096)
        with torch.no_grad():
            for encoder, block in zip(vqvae.encoders, vqvae.bottleneck.blocks, strict=True):
                block.init_k(block.rows(encoder.latent(x))[0])
    save_checkpoint(path, Hyperparams(hps, train=True), vqvae, step=7)
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny") / "run"
    make_run(folder / "checkpoint_latest.pth.tar", depth=3, dilation_growth_rate=3)
    return str(folder)


@pytest.fixture()
def songs(tmp_path: Path) -> Path:
    """A mono WAV at 8 kHz, 9.01 s, and a stereo MP3 at 44.1 kHz, 6 s."""
    folder = tmp_path / "songs"
    write_audio(folder / "a.wav", make_song(0, 8000, 9.01).audio, 8000)
    song = make_song(1, 44100, 6.0).audio
    write_audio(folder / "b.mp3", np.stack([song, -0.5 * song], axis=1), 44100)
    return folder


def flags(songs: Path, model: str, /, **more: Any) -> dict[str, Any]:
    """The flags of a run over both songs; an `audio_file` takes the place of the folder."""
    given = {"model": model, "name": str(songs.parent / "out"), "device": "cpu"}
    where = {} if "audio_file" in more else {"audio_files_dir": str(songs)}
    return {**DEFAULTS, **given, **where, **more}


def written(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def report_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


# -------------------------------------------------------------------------------------------------------- figures


def some_figures(counts: list[int], *convergences: float, samples_per_code: int = 8, sr: int = 44100) -> Figures:
    return Figures(0, samples_per_code, sr, torch.tensor(counts), convergences)


def test_bit_rate_is_that_of_the_codes() -> None:
    figures = some_figures([1] * 2048, 0.1, samples_per_code=128)
    assert figures.codes_per_second == 44100 / 128
    assert figures.bit_rate == pytest.approx(44100 / 128 * 11)
    assert figures.entropy == pytest.approx(11.0) and figures.entropy_rate == pytest.approx(figures.bit_rate)


def test_codebook_use_and_entropy_are_counted() -> None:
    codes = torch.tensor([0, 0, 0, 0, 3, 3, 5, 6])
    x = torch.randn(2000)
    figures = measure(1, 32, 11025, 8, codes, x, x)
    assert (figures.codes, figures.used, figures.use) == (8, 4, 0.5)
    assert figures.entropy == pytest.approx(1 / 2 * 1 + 1 / 4 * 2 + 2 * (1 / 8 * 3))
    assert figures.report()["perplexity"] == pytest.approx(2**1.75)
    assert some_figures([5, 0, 0], 0.1).entropy == 0.0


def test_songs_are_counted_together() -> None:
    both = joined([some_figures([4, 0, 0, 0], 0.2), some_figures([0, 2, 2, 0]), some_figures([0, 4, 0, 0], 0.4)])
    assert (both.codes, both.used) == (12, 3)
    assert both.convergence == pytest.approx(0.3)  # of the two that are not silent
    assert both.decibels == pytest.approx(20 * math.log10(0.3))
    assert both.report()["spectral_convergence_db"] == pytest.approx(20 * math.log10(0.3))


@pytest.mark.parametrize("samples", [700, 1025, 5000, 20001])
@pytest.mark.parametrize("piece", [3, 7, 2048])
def test_spectra_in_pieces_are_those_of_the_losses(samples: int, piece: int) -> None:
    x = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
    whole = magnitudes(pad(x, (0, max(0, 1025 - samples)))[None], StftSettings())[0]
    torch.testing.assert_close(torch.cat(list(spectra(x, piece)), 1), whole, rtol=1e-4, atol=1e-4)


def test_spectral_convergence_is_that_of_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures_module, "FRAMES", 16)
    x = torch.from_numpy(make_song(3, 8000, 4.0).audio)
    y = 0.8 * x + 0.01 * torch.randn(len(x), generator=torch.Generator().manual_seed(1))
    expected = convergence_of_the_losses(x[None, :, None], y[None, :, None])
    assert spectral_convergence(x, y) == pytest.approx(float(expected), rel=1e-4)
    assert measure(0, 8, 8000, 4, torch.tensor([1]), x, y).decibels == pytest.approx(decibels(expected), abs=1e-3)


def test_perfect_silent_and_missing_sound() -> None:
    x = torch.from_numpy(make_song(3, 8000, 4.0).audio)
    codes = torch.tensor([1])
    nearly = measure(0, 8, 8000, 4, codes, x, x * (1 + 1e-6))
    assert nearly.decibels is not None and nearly.decibels < -100
    perfect = measure(0, 8, 8000, 4, codes, x, x)
    assert perfect.decibels == -math.inf and perfect.report()["spectral_convergence_db"] is None
    assert perfect.report()["spectral_convergence"] == 0.0 and "perfect" in text_table([perfect])
    assert measure(0, 8, 8000, 4, codes, x, 0 * x).decibels == pytest.approx(0.0, abs=1e-6)
    silent = measure(0, 8, 8000, 4, codes, 0 * x, x)
    assert silent.convergence is None and silent.decibels is None and "silent" in text_table([silent])


# -------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("window", [100, 300, 1000, 10**6])
def test_windows_give_what_one_pass_gives(model: str, window: int) -> None:
    """The slow twin is the VQ-VAE itself on the whole song."""
    vqvae = load_vqvae(find_vqvae(model), "cpu")
    x = torch.from_numpy(make_song(2, 8000, 2.0).audio)[8000 : 8000 + 1500 // 16 * 16]
    for level in range(3):
        coder = Coder(vqvae, window)
        done: list[int] = []
        codes = torch.cat(list(coder.encode(x, level, done.append)))
        whole = vqvae.encode(x[None, :, None], level, level + 1)[0]
        assert torch.equal(codes, whole[0]) and len(codes.unique()) > 4
        assert sum(done) == len(x) and len(done) == -(-len(codes) // max(1, window // SAMPLES_PER_CODE[level]))
        decoded = torch.cat(list(coder.decode(codes, level)))
        expected = vqvae.decode([whole], level, level + 1)[0, :, 0]
        torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-5)


def test_reach_is_no_less_than_what_a_sample_changes(model: str) -> None:
    vqvae = load_vqvae(find_vqvae(model), "cpu")
    for level, per_code in enumerate(SAMPLES_PER_CODE):
        x = torch.zeros(1, 1, 4096, requires_grad=True)
        vqvae.encoders[level](x)[-1][..., 2048 // per_code].sum().backward()
        seen = x.grad[0, 0].nonzero()
        reach = encoder_reach(vqvae.encoders[level])
        assert 2048 - reach <= int(seen.min()) and int(seen.max()) < 2048 + per_code + reach
        z = torch.randn(1, 4, 4096 // per_code, requires_grad=True)
        vqvae.decoders[level](z)[..., 2048].sum().backward()
        seen = per_code * z.grad[0].abs().sum(0).nonzero()
        reach = decoder_reach(vqvae.decoders[level], per_code)
        assert 2048 - reach <= int(seen.min()) + per_code - 1 and int(seen.max()) <= 2048 + reach


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_window_that_does_not_fit_is_halved(model: str, error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU and a processor say with errors of their own that memory has run out."""
    vqvae = load_vqvae(find_vqvae(model), "cpu")
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    whole = vqvae.encode(x[None, :, None], 2, 3)[0][0]
    encode, sizes = vqvae.encode, []

    def small(piece: torch.Tensor, *levels: int) -> Any:
        sizes.append(piece.shape[1])
        if piece.shape[1] > limit:
            raise error
        return encode(piece, *levels)

    monkeypatch.setattr(vqvae, "encode", small)
    limit, coder = 3000, Coder(vqvae)
    assert torch.equal(torch.cat(list(coder.encode(x, 2))), whole)
    assert sizes[0] == 4096 and coder.window < 4096
    limit = 10
    with pytest.raises(UserError, match="samples at a time do not fit the memory of cpu: use another machine"):
        list(coder.encode(x, 2))


# ----------------------------------------------------------------------------------------------------- spectrogram


def read_png(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Palette indices [H, W] and palette [256, 3] of a PNG without filters."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:], np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)


def test_a_png_holds_what_was_drawn() -> None:
    indices = np.random.default_rng(0).integers(0, 256, (5, 9)).astype(np.uint8)
    drawn, colours = read_png(png(indices, palette().tobytes()))
    assert (drawn == indices).all() and (colours == palette()).all()
    lightness = palette() @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -1).all() and lightness[-1] - lightness[0] > 200


def test_a_tone_is_drawn_where_it_sounds() -> None:
    """The first half 1 kHz, the second 3 kHz and 40 dB weaker; ticks tell the same height."""
    sr = 11025
    t = torch.arange(20 * sr) / sr
    early, late = torch.sin(2 * torch.pi * 1000 * t), 0.01 * torch.sin(2 * torch.pi * 3000 * t)
    loudness = mel_decibels(torch.where(t < 10, early, late), sr)
    assert loudness.shape == (ROWS, 20 * sr // 256 + 1)
    quarter, rest = loudness.shape[1] // 4, 3 * loudness.shape[1] // 4
    labels = dict(ticks(sr))
    assert loudness[:, quarter].argmax() == pytest.approx(labels["1 kHz"] * ROWS, abs=2)
    assert loudness[:, rest].argmax() < labels["2 kHz"] * ROWS
    drawn, _ = read_png(picture(loudness, float(loudness.max())))
    assert drawn[:, quarter].max() >= 254
    assert 0.45 < drawn[:, rest].max() / 255 < 0.55  # 40 of 80 dB
    assert 0 <= drawn.min() < 20


def test_ticks_fit_every_rate() -> None:
    for sr in (250, 8000, 11025, 22050, 44100, 96000):
        places = [place for _, place in ticks(sr)]
        assert all(0 < place < 1 for place in places)
        assert all(a - b > 0.1 for a, b in zip(places, places[1:], strict=False))
    assert len(ticks(44100)) >= 4


# ------------------------------------------------------------------------------------------------------ whole runs


def test_a_folder_of_songs(songs: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = songs.parent / "out"
    assert main(**flags(songs, model)) == 0
    stems = ["original", "level_0", "level_1", "level_2"]
    items = {f"item_{i}/{stem}.{end}" for i in (0, 1) for stem in stems for end in ("wav", "png")}
    assert written(out) == {"index.html", "report.json", *items}

    report = report_of(out)
    assert (report["sr"], report["step"], report["model"]) == (SR, 7, model)
    assert [item["audio"] for item in report["items"]] == [str(songs / name) for name in ("a.wav", "b.mp3")]
    vqvae = load_vqvae(find_vqvae(model), "cpu")
    for i, item in enumerate(report["items"]):
        original = torch.from_numpy(load_audio(out / f"item_{i}" / "original.wav", SR, channels=1)[0][0])
        song = load_audio(songs / ("a.wav", "b.mp3")[i], SR, channels=1)[0][0]
        np.testing.assert_allclose(original, np.clip(song, -1, 1), atol=1e-4)  # stereo is mixed, and 16 bits
        assert item["samples"] == len(original) and item["seconds"] == len(original) / SR
        for level, of_level in enumerate(item["levels"]):
            decoded = load_audio(out / f"item_{i}" / f"level_{level}.wav", SR, channels=1)[0][0]
            assert len(decoded) == len(original)  # the last, partial code is heard as well
            whole = pad(torch.from_numpy(song), (0, -len(song) % SAMPLES_PER_CODE[level]))
            codes = vqvae.encode(whole[None, :, None], level, level + 1)
            expected = vqvae.decode(codes, level, level + 1)[0, : len(song), 0].clamp(-1, 1)
            np.testing.assert_allclose(decoded, expected, atol=1e-4)
            assert of_level["codes"] == codes[0].numel() and of_level["hop"] == SAMPLES_PER_CODE[level]
            assert of_level["codes_used"] == len(codes[0].unique())
            assert of_level["bit_rate"] == SR / SAMPLES_PER_CODE[level] * 4
            assert 0 < of_level["entropy_bits_per_code"] <= 4
            db = of_level["spectral_convergence_db"]
            assert db == pytest.approx(20 * math.log10(of_level["spectral_convergence"]))
            assert f"{db:.1f}" in (out / "index.html").read_text().replace("\u2212", "-")
    for level, total in enumerate(report["levels"]):
        assert total["codes"] == sum(item["levels"][level]["codes"] for item in report["items"])
    text = capsys.readouterr().out
    assert "a.wav, 9.0 s" in text and "b.mp3, 6.0 s" in text and "all 2 songs" in text
    assert f"open {out / 'index.html'}" in text


@pytest.mark.parametrize("format", ["flac", "mp3"])
def test_a_part_some_levels_another_format(songs: Path, model: str, format: str) -> None:
    out = songs.parent / "out"
    file = str(songs / "a.wav")
    assert main(**flags(songs, model, audio_file=file, offset=2, seconds=4.5, levels=(2, 0), format=format)) == 0
    names = {f"item_0/{stem}.{end}" for stem in ("original", "level_0", "level_2") for end in (format, "png")}
    assert written(out) == {"index.html", "report.json", *names}
    (item,) = report_of(out)["items"]
    assert (item["offset"], item["samples"]) == (2.0, 1125)
    assert [level["level"] for level in item["levels"]] == [0, 2]
    if format == "flac":
        original = load_audio(out / "item_0" / "original.flac", SR, channels=1)[0][0]
        song = load_audio(file, SR, channels=1)[0][0]
        np.testing.assert_allclose(original, song[500:1625], atol=1e-4)


def test_a_part_longer_than_the_song_has_no_silence_behind_it(songs: Path, model: str) -> None:
    assert main(**flags(songs, model, audio_file=str(songs / "a.wav"), offset=5.0, seconds=60, levels=0)) == 0
    (item,) = report_of(songs.parent / "out")["items"]
    assert item["seconds"] == pytest.approx(4.01, abs=0.01)


def test_two_jobs_in_one_folder(songs: Path, model: str) -> None:
    pytest.importorskip("fcntl")
    out = songs.parent / "out"
    out.mkdir()
    with only_writer(out, "name"):
        with pytest.raises(UserError, match="^--name=.*: another process is writing to this folder; wait"):
            main(**flags(songs, model))
    assert written(out) == set()


def test_broken_and_short_files_are_named_and_left_out(
    songs: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (songs / "a_broken.mp3").write_bytes(b"this is no music" * 100)
    write_audio(songs / "short.wav", 0.1 * np.ones(12), SR)
    assert main(**flags(songs, model)) == 1
    text = capsys.readouterr().out
    assert "2 left out:" in text and "a_broken.mp3" in text
    assert "less than one code of level 2: give at least 16 samples (0.064 s) or choose lower --levels" in text
    out = songs.parent / "out"
    assert [Path(item["audio"]).name for item in report_of(out)["items"]] == ["a.wav", "b.mp3"]
    assert {name.split("/")[0] for name in written(out)} == {"index.html", "report.json", "item_0", "item_1"}
    with pytest.raises(UserError, match="short.wav has 12 samples at 250 Hz, less than one code of level 2"):
        main(**flags(songs, model, audio_file=str(songs / "short.wav"), name=str(songs.parent / "other")))
    assert not (songs.parent / "other").exists()
    assert main(**flags(songs, model, audio_file=str(songs / "short.wav"), levels=1)) == 0


def test_a_second_run_replaces_only_its_own_files(songs: Path, model: str) -> None:
    out = songs.parent / "out"
    assert main(**flags(songs, model)) == 0
    (out / "notes.txt").write_text("mine")
    (out / "item_0" / "mine.wav").write_bytes(b"mine")
    before = written(out)
    second = (out / "item_1" / "level_0.wav").read_bytes()
    assert main(**flags(songs, model, audio_file=str(songs / "b.mp3"), levels=0)) == 0
    assert written(out) == before
    assert (out / "notes.txt").read_text() == "mine" and (out / "item_0" / "mine.wav").read_bytes() == b"mine"
    assert (out / "item_1" / "level_0.wav").read_bytes() == second == (out / "item_0" / "level_0.wav").read_bytes()
    assert len(report_of(out)["items"]) == 1
    assert "item_1" not in (out / "index.html").read_text()


def test_the_page_of_something_else_is_kept(songs: Path, model: str) -> None:
    out = songs.parent / "out"
    out.mkdir()
    (out / "index.html").write_text("songs that were sampled")
    for report in ("", "{", "[]", '{"kind": "other"}'):
        if report:
            (out / "report.json").write_text(report)
        with pytest.raises(UserError, match=r"--name=.*out holds a page of something else: choose another folder"):
            main(**flags(songs, model))
    assert (out / "index.html").read_text() == "songs that were sampled" and not (out / "item_0").exists()


def test_an_interrupted_run_leaves_a_whole_page(
    songs: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = Reconstructor.run, songs.parent / "out"

    def stops(job: Reconstructor, file: str, name: str) -> Any:
        if name == "b.mp3":
            raise KeyboardInterrupt
        return run(job, file, name)

    monkeypatch.setattr(Reconstructor, "run", stops)
    assert main(**flags(songs, model)) == 130
    assert "holds 1 of 2 songs" in capsys.readouterr().err
    assert len(report_of(out)["items"]) == 1 and "a.wav" in (out / "index.html").read_text()


def test_a_full_disk_ends_the_run(songs: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the fault of a file, so the run does not continue to the next one."""

    def full(*_: Any) -> None:
        raise UserError("no space left to write it")

    monkeypatch.setattr("jukebox.utils.audio.write.write_audio", full)
    with pytest.raises(UserError, match="no space left"):
        main(**flags(songs, model))


def test_silence_comes_through(tmp_path: Path, model: str) -> None:
    write_audio(tmp_path / "silence.wav", np.zeros(8000), 8000)
    out = tmp_path / "out"
    assert main(**flags(tmp_path, model, audio_file=str(tmp_path / "silence.wav"), name=str(out))) == 0
    assert all(level["spectral_convergence_db"] is None for level in report_of(out)["levels"])
    drawn, _ = read_png((out / "item_0" / "original.png").read_bytes())
    assert drawn.max() == 0
    assert "silent" in (out / "index.html").read_text()


def test_users_text_is_escaped(songs: Path, model: str) -> None:
    nasty = songs / "<script>alert('&\")<script>, 2.wav"
    (songs / "a.wav").rename(nasty)
    out = songs.parent / "<b>out</b>"
    assert main(**flags(songs, model, audio_file=str(nasty), name=str(out), levels=0)) == 0
    text = (out / "index.html").read_text()
    assert "<script>alert" not in text and "<b>" not in text
    assert "&lt;script&gt;alert(&#x27;&amp;&quot;)&lt;script&gt;, 2.wav" in text  # a name with a comma is one file
    assert str(songs) not in text  # a page may be shown to others
    assert clean("a\x00b\ud800c") == "a\ufffdb\ufffdc"


# -------------------------------------------------------------------------------------------------------- models


def test_where_the_vqvae_is_found(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, its checkpoint, runs of priors that name their VQ-VAE, and a key of MODELS whose priors are not there."""
    file = f"{model}/checkpoint_latest.pth.tar"
    assert find_vqvae(model).restore_vqvae == find_vqvae(file).restore_vqvae == file
    priors = make_tiny_runs(tmp_path)
    vq = str(tmp_path / "logs" / "vq" / "checkpoint_latest.pth.tar")
    assert find_vqvae(priors).restore_vqvae == find_vqvae(priors.split(",")[-1]).restore_vqvae == vq
    assert find_vqvae("demo").levels == 3
    assert find_vqvae("5b").restore_vqvae.startswith("https://")


def test_a_vqvae_without_codes_is_refused(tmp_path: Path) -> None:
    file = make_run(tmp_path / "plain.pth.tar", use_bottleneck=False)
    with pytest.raises(UserError, match="was trained with use_bottleneck=False"):
        load_vqvae(find_vqvae(file), "cpu")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(name=""), "--name is missing: give the folder to write to, such as"),
        (dict(model=""), "--model is missing: give one of 5b, .*, or a run, such as --model=logs/RUN"),
        (dict(model="6b"), "unknown model '6b'.*5b"),
        (dict(audio_files_dir=""), "--audio_file and --audio_files_dir are missing: give one"),
        (dict(audio_file="a.wav", audio_files_dir="b"), "are both given: give one"),
        (dict(audio_file="no such.wav"), "--audio_file=no such.wav: there is no such file"),
        (dict(audio_files_dir="no/such"), "is not a folder"),
        (dict(format="ogg"), "--format=ogg: choose wav, flac or mp3"),
        (dict(levels=3), "--levels=3: give numbers from 0, the finest, to 2, such as --levels=0"),
        (dict(levels=(0, -1)), "--levels=0,-1"),
        (dict(levels="top"), "--levels=top"),
        (dict(levels=True), "--levels=True"),
        (dict(seconds=0), "--seconds=0: must be above 0"),
        (dict(seconds="all"), "--seconds=all"),
        (dict(offset=-1), "--offset=-1: must be 0 or more$"),
        (dict(offset=99), "ends before 99.00 s"),
        (dict(device="tpu"), "tpu"),
    ],
)
def test_wrong_uses_say_what_to_type(songs: Path, model: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(**flags(songs, model, **given))
    assert not (songs.parent / "out").exists()


def test_a_folder_without_a_checkpoint_or_audio(songs: Path, model: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no checkpoint_latest.pth.tar"):
        main(**flags(songs, str(tmp_path / "empty")))
    with pytest.raises(UserError, match="there is no audio file in it or below"):
        main(**flags(tmp_path / "empty", model))


def test_under_mpiexec_it_is_refused(songs: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(UserError, match="runs as one process: start it without mpiexec"):
        main(**flags(songs, model))


def test_as_a_command(songs: Path, model: str) -> None:
    given = [f"--model={model}", f"--name={songs.parent / 'out'}", "--device=cpu", "--levels=0,1"]
    command = [sys.executable, "jukebox/reconstruct.py", *given, f"--audio_file={songs / 'a.wav'},{songs / 'b.mp3'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert "spectral" in result.stdout and "all 2 songs" in result.stdout and "100%" in result.stderr
    assert len(report_of(songs.parent / "out")["levels"]) == 2
    wrong = subprocess.run([*command[:2], "--level=0"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: unknown flag --level; did you mean --levels")


def test_help_is_quick_and_complete() -> None:
    code = (
        "import sys, runpy; sys.argv[1:] = ['--help']\n"
        "try: runpy.run_path('jukebox/reconstruct.py', run_name='__main__')\n"
        "except SystemExit as end: sys.exit(end.code or int('torch' in sys.modules) * 9)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    assert all(f"--{flag.name}" in result.stdout for flag in FLAGS)
