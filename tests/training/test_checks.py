"""What is refused before anything is loaded, and what the message says to type instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jukebox.hparams import setup_hparams
from jukebox.training.checks import check_training
from jukebox.transformer.orders import ORDERS
from jukebox.utils.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "music").mkdir()
    (tmp_path / "vqvae.pth.tar").write_bytes(b"x")
    return tmp_path


def check(folder: Path, sets: str = "small_vqvae", **values: Any) -> None:
    usual: dict[str, Any] = dict(
        name="run", train=True, audio_files_dir=str(folder / "music"), labels=False, sample_length=262144
    )
    if "prior" in sets or "upsampler" in sets:
        usual.update(prior=True, levels=2, level=1, sample_length=2097152, restore_vqvae=str(folder / "vqvae.pth.tar"))
    check_training(setup_hparams(sets, {**usual, **values}))


TOP = "small_vqvae,small_prior,all_fp16,cpu_ema"
RELEASED = dict(levels=3, level=2, sample_length=1048576)
LYRICS = dict(labels=True, sample_length=786432, levels=3, level=2)


@pytest.mark.parametrize(
    ("sets", "values"),
    [
        ("small_vqvae", dict(bs=4, aug_shift=True, aug_blend=True)),
        (TOP, dict(weight_decay=0.01, save_iters=1000)),
        ("small_vqvae,small_upsampler,all_fp16,cpu_ema", dict(sample_length=262144, level=0)),
        ("vqvae,small_prior,all_fp16,cpu_ema", dict(RELEASED, restore_vqvae="https://x/vqvae.pth.tar")),
        ("vqvae,small_labelled_prior,all_fp16,cpu_ema", dict(RELEASED, labels=True)),
        ("vqvae,small_single_enc_dec_prior,all_fp16,cpu_ema", LYRICS),
        ("vqvae,small_sep_enc_dec_prior,all_fp16,cpu_ema", LYRICS),
        (
            "vqvae,prior_1b_lyrics,all_fp16,cpu_ema",
            dict(labels=True, levels=3, level=2, sample_length=786432, bs=1),
        ),
        (TOP, dict(lr_use_linear_decay=True, lr_start_linear_decay=1000, lr_decay=500)),
        (TOP, dict(fsdp=True)),
        ("small_vqvae", dict(fsdp=True)),
    ],
)
def test_the_promised_commands_pass(folder: Path, sets: str, values: dict[str, Any]) -> None:
    check(folder, sets, **values)


@pytest.mark.parametrize(
    ("sets", "values", "message"),
    [
        ("small_vqvae", dict(name=""), "--name is missing"),
        ("small_vqvae", dict(train=False), "nothing to do: give --train"),
        ("small_vqvae", dict(bs=0), "bs=0: must be at least 1"),
        ("small_vqvae", dict(lr=-1.0), "lr=-1.0: must not be negative"),
        ("small_vqvae", dict(mu=1.5), "mu=1.5: must be in"),
        ("small_vqvae", dict(beta2=1.0), "beta2=1.0: must be in"),
        ("small_vqvae", dict(audio_files_dir=""), "--audio_files_dir is missing"),
        ("small_vqvae", dict(audio_files_dir="/no/such"), "/no/such does not exist"),
        ("small_vqvae", dict(sample_length=0), "use --sample_length=a multiple of 256, such as 262144"),
        ("small_vqvae", dict(sample_length=262145), "use --sample_length=262144"),
        ("small_vqvae", dict(levels=3), "levels=3, but downs_t=5,3 has 2 entries: use --levels=2"),
        ("small_vqvae", dict(fp16=True), "fp16 is a recipe for priors"),
        ("small_vqvae", dict(lr_use_linear_decay=True, lr_use_cosine_decay=True), "exclude each other"),
        ("small_vqvae", dict(lr_decay=0.0), "lr_decay must be above 0"),
        (TOP, dict(sample_length=2097151), "use --sample_length=2097152"),
        (TOP, dict(level=0), "n_ctx=8192 tokens of level 0 are 262144 samples .11.89 s.: use --sample_length=262144"),
        (TOP, dict(level=2), "level goes from 0 .finest. to 1 .top."),
        (TOP, dict(level=-1), "level goes from 0"),
        (TOP, dict(restore_vqvae=""), "needs a trained VQ-VAE"),
        (TOP, dict(restore_vqvae="logs/no.pth.tar"), "restore_vqvae=logs/no.pth.tar does not exist"),
        (TOP, dict(restore_prior="logs/no.pth.tar"), "restore_prior=logs/no.pth.tar does not exist"),
        (TOP, dict(labels=True), "y_bins=GENRES,ARTISTS"),
        (TOP, dict(use_tokens=True), "give --labels=True"),
        (TOP, dict(use_tokens=True, labels=True, y_bins=[2, 2], n_tokens=9), "use --n_tokens=10"),
        (TOP, dict(bf16=True), "fp16 and bf16 exclude each other"),
        (TOP, dict(fp16=False), "needs fp16=True"),
        (TOP, dict(use_bottleneck=False), "without codes"),
        ("small_vqvae", dict(codes_dir="codes"), "codes_dir=codes is for priors"),
        ("small_vqvae", dict(finetune_layers="last_2"), "numbers of layers go with --prior"),
        ("small_vqvae", dict(finetune_layers="decoders"), "--finetune_layers=decoders --restore_vqvae=CHECKPOINT"),
        ("small_vqvae", dict(n_segment=0), "n_segment=0: must be at least 1"),
        ("small_vqvae", dict(n_segment=3), "a chunk has 1024 codes of the top level"),
        ("small_vqvae", dict(plan_ranks="8,none"), "such as --plan_ranks=8,64"),
        (TOP, dict(codes_dir="codes", aug_blend=True), "leave aug_blend out"),
        ("small_vqvae", dict(train_test_split=0.0), "above 0 and at most 1, such as --train_test_split=0.9"),
        ("small_vqvae", dict(train_test_split=1.5), "train_test_split=1.5"),
        ("small_vqvae", dict(mu=1.0), "mu=1.0: must be in .0, 1., since 1 would keep the average"),
        ("small_vqvae", dict(channels=3), "channels=3: use 1 or 2"),
        ("small_vqvae", dict(l_bins=0), "l_bins=0: must be at least 1"),
        ("small_vqvae", dict(width=-1), "width=-1: must be at least 1"),
        ("small_vqvae", dict(l_mu=1.0), "l_mu=1.0: must be in"),
        ("small_vqvae", dict(l_mu=-0.1), "l_mu=-0.1: must be in"),
        ("small_vqvae", dict(quantizer="fsq"), "quantizer=fsq: use one of codebook"),
        ("small_vqvae", dict(loss_fn="l3"), "loss_fn=l3: use one of l1, l2, linf, lmix"),
        ("small_vqvae", dict(loss_fn="lmix", lmix_l2=0.0, lmix_linf=0.0), "such as --lmix_l2=1.0"),
        ("small_vqvae", dict(downs_t=[5, 0]), "downs_t=5,0: must be whole numbers from 1 on"),
        (TOP, dict(fp16_loss_scale=0), "fp16_loss_scale=0: must be above 0"),
        (TOP, dict(fp16_loss_scale=-2.0), "fp16_loss_scale=-2.0: must be above 0"),
        (TOP, dict(heads=3), "heads=3: attention is m_attn . prior_width = 256 wide, .* use --heads=1"),
        (TOP, dict(heads=0), "heads=0: must be at least 1"),
        (TOP, dict(prior_width=0), "prior_width=0: must be at least 1"),
        (TOP, dict(attn_order=13), "attn_order=13: choose one of 0, 1, .*, 11, 12"),
        (TOP, dict(resid_dropout=1.0), "resid_dropout=1.0: must be in"),
        ("vqvae,small_sep_enc_dec_prior,all_fp16,cpu_ema", dict(LYRICS, prime_heads=5), "prime_heads=5: attention is"),
    ],
)
def test_what_is_refused(folder: Path, sets: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check(folder, sets, **values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["attn_order", "prime_attn_order"])
def test_a_registered_order_is_accepted(key: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As docs/extend.md says."""
    sets, values = "vqvae,small_sep_enc_dec_prior", {**LYRICS, key: 13}
    with pytest.raises(UserError, match=f"{key}=13: choose one of 0, 1"):
        check(folder, sets, **values)
    monkeypatch.setitem(ORDERS, 13, [1, 2])
    check(folder, sets, **values)


def test_no_torch_is_needed() -> None:
    """Checks and help come before the seconds that torch takes."""
    program = "import jukebox.train, sys; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
