"""Every hyper-parameter, its default and what it means; every named set; and how they compose.

This file is at the bottom: of ours it imports names and errors only, and no torch, so `--help` and `--dry_run` are
quick.
Change a default or add a set here; add a key by giving it a default and a description in one of the groups below.

    hps = setup_hparams("small_vqvae,small_prior", dict(bs=4, lr=1e-4))     # sets from left to right, then keywords
    hps.n_ctx                                                              # 8192

A set of your own:

    mine = Hyperparams(small_prior, prior_depth=24)
    HPARAMS_REGISTRY["mine"] = mine                                        # now --hps=small_vqvae,mine works

Source: Jukebox (Dhariwal et al., 2020, arXiv 2005.00341), appendix B, tables 4 to 7.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

from jukebox.utils.errors import did_you_mean
from jukebox.utils.flag_values import DAMAGED, DAMAGED_HELP, expand_path
from jukebox.utils.float32 import TF32_HELP
from jukebox.utils.gone import gone_key
from jukebox.utils.json_text import read_json
from jukebox.utils.levels import samples_per_code
from jukebox.vqvae.loss_kinds import LOSS_KINDS

Options = TypeVar("Options")
REMOTE_PREFIX = "https://openaipublic.azureedge.net/"


class HyperparamsError(ValueError):
    """A set, key or value that cannot be used; the message says what to type instead."""


class Hyperparams(dict[str, Any]):
    """A dict whose items are also attributes: `hps.n_ctx` is `hps["n_ctx"]`."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"no hyper-parameter {key!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def copy(self) -> Hyperparams:
        return Hyperparams(self)

    def frozen(self, **values: Any) -> FrozenHyperparams:
        """The same values and some others, which can no longer be changed."""
        return FrozenHyperparams(self, **values)


class FrozenHyperparams(Hyperparams):
    """Hyper-parameters that are resolved: they are read as ever, and each way to write into them is an error.

    `Hyperparams(hps, lr=0.001)` and `hps.copy()` give a copy that can be changed.
    """

    def _refuse(self, *args: Any, **values: Any) -> NoReturn:
        key = str(args[0]) if args and isinstance(args[0], str) else next(iter(values), "KEY")
        raise HyperparamsError(
            f"these hyper-parameters are resolved, so {key} cannot be changed: "
            f"make a copy with another value, Hyperparams(hps, {key}=...)"
        )

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = __ior__ = _refuse
    update = pop = popitem = setdefault = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)  # pickle and deepcopy would write keys one by one


DEFAULTS: dict[str, Hyperparams] = {}  # group -> key -> default
DESCRIPTIONS: dict[str, str] = {}  # key -> one line for --help and the reference page
PATHS = ("local_logdir", "audio_files_dir", "labels_dir", "metadata_py", "codes_dir", "restore_vqvae", "restore_prior")
HPARAMS_REGISTRY: dict[str, Hyperparams] = {}  # set name -> key -> value

# Keys that take values of another type than their default has.
_ALSO: dict[str, tuple[type, ...]] = {
    "y_bins": (list,),
    "sample_length_in_seconds": (float,),
    "total_sample_length_in_seconds": (float,),
    "ignore_grad_norm": (float,),
    "max_len": (float,),
}
# Keys whose default is None: the types they take when set.
_NONE_TYPES: dict[str, tuple[type, ...]] = {
    "min_duration": (int, float),
    "max_duration": (int, float),
    "song_duration": (int, float),
    "hvqvae_multipliers": (list, tuple),
    "dilation_cycle": (int,),
    "max_bow_genre_size": (int,),
    "alignment_layer": (int,),
    "alignment_head": (int,),
    "blocks": (int,),
    "spread": (int,),
    "cond_dilation_cycle": (int,),
    "prime_blocks": (int,),
    "prime_spread": (int,),
    "fp16_loss_scale": (int, float),
    "bf16": (bool,),
    "mu": (int, float),
}


def _group(name: str, /, **entries: tuple[Any, str]) -> None:
    """Registers one group of defaults; each entry is (default, description)."""
    DEFAULTS[name] = Hyperparams({key: default for key, (default, _) in entries.items()})
    DESCRIPTIONS.update({key: text for key, (_, text) in entries.items()})


# ---------------------------------------------------------------------------------------------------- defaults

_group(
    "script",
    name=("", "name of the run; its files go to LOCAL_LOGDIR/NAME"),
    local_logdir=("logs", "folder that holds all runs"),
    max_len=(24, "longest audio preview that is logged, in seconds"),
    max_log=(32, "most items logged as audio at a time"),
    save=(True, "write checkpoints"),
    save_iters=(20000, "steps between two kept checkpoints"),
    seed=(0, "seed of every random draw of the run, which keeps it when it is resumed"),
    prior=(False, "train a prior (True) or the VQ-VAE (False)"),
    log_steps=(100, "steps between two full log entries"),
    save_minutes=(10.0, "minutes between two writes of checkpoint_latest, besides those every save_iters steps"),
    sample_iters=(
        0,
        "steps between two audio previews (input, reconstruction, samples); -1: none; 0: at step 50, 100, 200, 400 and "
        "so on, and every save_iters",
    ),
    wandb=("", "project of Weights & Biases that gets all that TensorBoard shows; pip install wandb"),
    device=("", "cuda, cuda:1, mps or cpu; empty takes the best there is"),
    tf32=(False, TF32_HELP),
    recompute=(
        "",
        "what a prior recomputes in the backward pass: all layers, none, or auto, none if all activations fit the "
        "memory; empty: as c_res, c_attn, c_mlp and those of conditioner and lyric encoder say",
    ),
    dry_run=(False, "print parameters and memory per process and stop; nothing is loaded or allocated"),
    plan_ranks=("", "numbers of processes that dry_run plans for, such as 8,64; empty: that of the launcher, 8 and 64"),
    plan_gb=(0.0, "memory of one GPU in GiB that dry_run plans for; 0: this machine's, or 80"),
)

_group(
    "data",
    audio_files_dir=("", "folder of audio files to train on, searched recursively"),
    bs=(1, "batch size per process"),
    bs_sample=(1, "batch size of the samples that are logged"),
    nworkers=(1, "processes that load audio"),
    damaged=(DAMAGED[0], DAMAGED_HELP),
    aug_shift=(False, "shift each training chunk by a random part of its length"),
    aug_blend=(False, "mix stereo to mono with random weights instead of one half each"),
    train_test_split=(0.9, "share of the songs used for training; the rest is held out"),
    min_duration=(None, "shortest song used, in seconds; also the lower end of the length embedding"),
    max_duration=(None, "songs are shorter than this, in seconds; also the upper end of the timing embeddings"),
    song_duration=(None, "seconds of the songs that a model knows; sampling takes them if no length is given"),
    song_lyrics=("", 'lyrics that a model can sing; sampling takes them if none are given, and a poem for ""'),
    n_tokens=(0, "lyric characters in one window"),
    n_vocab=(0, "size of the lyric vocabulary, the unknown character included"),
    use_tokens=(False, "condition on lyrics"),
    labels_dir=(
        "",
        "folder with artist_ids.txt, genre_ids.txt and, for another alphabet, vocab.txt; empty: released ones",
    ),
    metadata_py=("", "Python file with your own get_metadata(filename, test) -> (artist, genre, lyrics)"),
    lyric_line=(1, "which of several lines of lyrics on the same stamp is sung; translations often follow"),
    curr_epoch=(-1, "epoch to start from; -1 starts at the beginning"),
    codes_dir=(
        "",
        "folder for the songs' VQ codes: written once, then priors of all levels train from them instead of audio",
    ),
)

_group(
    "vqvae",
    restore_vqvae=("", "checkpoint of the VQ-VAE, a path or a URL"),
    levels=(2, "number of VQ-VAE levels"),
    downs_t=([1, 1], "per level: number of strided convolutions"),
    strides_t=([2, 2], "per level: stride of each of them"),
    hvqvae_multipliers=(None, "per level: factor on width and depth of encoder and decoder"),
    revival_threshold=(1.0, "a code whose running count falls below this is replaced by a random encoder output"),
    emb_width=(64, "width of a codebook vector"),
    l_bins=(512, "codebook entries per level"),
    l_mu=(0.99, "decay of the codebook's running averages"),
    commit=(1.0, "weight of the commitment loss"),
    spectral=(0.0, "weight of the single-resolution spectral loss"),
    multispectral=(1.0, "weight of the multi-resolution spectral loss"),
    loss_fn=("l2", f"reconstruction loss: {', '.join(LOSS_KINDS[:-1])} or {LOSS_KINDS[-1]}"),
    linf_k=(2048, "largest squared errors per item that the linf loss averages"),
    lmix_l1=(0.0, "weight of l1 in lmix"),
    lmix_l2=(0.0, "weight of l2 in lmix"),
    lmix_linf=(0.0, "weight of linf in lmix"),
    quantizer=("codebook", "what makes the codes: codebook, or another of QUANTIZERS (jukebox/vqvae/bottleneck.py)"),
    use_bottleneck=(True, "quantise; False passes the continuous latents through"),
)

_group(
    "vqvae_conv_block",
    depth=(3, "residual blocks after each strided convolution"),
    width=(128, "channels of the residual blocks"),
    m_conv=(1.0, "hidden channels of a residual block, as a factor of its width"),
    dilation_growth_rate=(1, "factor between the dilations of successive residual blocks"),
    dilation_cycle=(None, "restart the dilations after this many blocks"),
    vqvae_reverse_decoder_dilation=(True, "decoders run the dilations from large to small"),
)

_group(
    "prior",
    restore_prior=("", "checkpoint of the prior, a path or a URL"),
    finetune_layers=(
        "",
        "train only these transformer layers and the embeddings: last_N, or numbers from 0 such as 70,71; of a VQ-VAE: "
        "decoders, which leaves its codes as they are; empty: all",
    ),
    max_bow_genre_size=(None, "most genre words per song"),
    signals=("", "conditioning signals besides artist and genre, names in SIGNALS separated by commas"),
    y_bins=(0, "number of genres and number of artists, as two numbers"),
    level=(0, "level that the prior models; 0 is the finest"),
    t_bins=(64, "bins of the timing embeddings"),
    copy_input=(False, "feed the input to the output head as well; kept for old files, must be False"),
    merged_decoder=(False, "output head of its own, conditioning added once; set for priors that grew from an encoder"),
    single_enc_dec=(False, "one transformer over lyrics and music with a merged vocabulary"),
    alignment_layer=(None, "layer whose attention maps lyrics to music"),
    alignment_head=(None, "head of that layer"),
    alignment_shift=(0, "character i is read from column i + shift of that head; 1 if it was taught by align_loss"),
    align_loss=(0.0, "weight of a term that teaches that head where timed lyrics (.lrc files) are sung; 0: off"),
)

# The same for the prior's transformer and for the separate lyric encoder.
_attention = dict(
    heads=(1, "attention heads"),
    attn_order=(0, "which attention pattern each layer has, 0 to 12 (jukebox/transformer/patterns.py)"),
    blocks=(None, "number of blocks the context is cut into for sparse attention"),
    spread=(None, "positions per block that the summary-spread pattern keeps"),
    attn_dropout=(0.0, "dropout on attention weights"),
    resid_dropout=(0.0, "dropout on the residual branches"),
    emb_dropout=(0.0, "dropout on the embeddings"),
    zero_out=(False, "start each residual branch at zero"),
    res_scale=(False, "scale residual branches by one over the depth"),
    pos_init=(False, "start position embeddings as a sum of one embedding per axis"),
    init_scale=(1.0, "factor on the random initialisation"),
    m_attn=(0.25, "width of attention as a factor of the transformer's"),
    m_mlp=(1.0, "width of the MLP as a factor of the transformer's"),
    c_res=(0, "1 recomputes whole layers in the backward pass to save memory"),
    c_attn=(0, "1 recomputes attention in the backward pass"),
    c_mlp=(0, "1 recomputes the MLP in the backward pass"),
)

_group(
    "prior_attn_block",
    n_ctx=(1024, "tokens in one context window"),
    prior_depth=(3, "transformer layers"),
    prior_width=(128, "width of the transformer"),
    **_attention,
)

_group(
    "cond_conv_block",
    cond_depth=(3, "residual blocks per stage of the conditioner on the upper level's codes"),
    cond_width=(128, "channels of the conditioner"),
    cond_m_conv=(1.0, "hidden channels of its residual blocks, as a factor"),
    cond_zero_out=(False, "start its residual branches at zero"),
    cond_res_scale=(False, "scale its residual branches by one over the root of the depth"),
    cond_dilation_growth_rate=(1, "factor between its dilations"),
    cond_dilation_cycle=(None, "restart its dilations after this many blocks"),
    cond_c_res=(0, "1 recomputes its residual blocks in the backward pass"),
)

_group(
    "sample",
    sample_length_in_seconds=(24, "seconds to generate"),
    total_sample_length_in_seconds=(240, "length of the imagined whole song, for the timing labels"),
)

_group(
    "prime",
    prime_loss_fraction=(0.1, "weight of the lyric loss against the music loss"),
)

_group(
    "prime_attn_block",
    prime_depth=(3, "layers of the separate lyric encoder"),
    prime_width=(128, "its width"),
    **{f"prime_{key}": (default, f"lyric encoder: {text}") for key, (default, text) in _attention.items()},
)

_group(
    "opt",
    epochs=(10000, "epochs to train"),
    lr=(0.0003, "learning rate"),
    clip=(1.0, "largest gradient norm; larger gradients are scaled down to it"),
    beta1=(0.9, "Adam: decay of the first moment"),
    beta2=(0.999, "Adam: decay of the second moment"),
    ignore_grad_norm=(0, "skip steps whose gradient norm is above this; 0 skips none"),
    weight_decay=(0.0, "decoupled weight decay"),
    eps=(1e-08, "Adam: added to the root of the second moment"),
    lr_warmup=(100.0, "steps over which the learning rate rises from zero"),
    lr_decay=(10000000000.0, "steps between two multiplications by lr_gamma, or length of the linear or cosine decay"),
    lr_gamma=(1.0, "factor on the learning rate every lr_decay steps"),
    lr_scale=(1.0, "constant factor on the learning rate"),
    lr_use_linear_decay=(False, "decay linearly to zero over lr_decay steps"),
    lr_start_linear_decay=(0, "step at which the linear or cosine decay starts; training ends lr_decay steps later"),
    lr_use_cosine_decay=(False, "decay along a half cosine to zero over lr_decay steps"),
)

_group(
    "fp16",
    fp16=(False, "run the transformer in half precision"),
    fp16_params=(False, "keep the transformer's matrices in half precision"),
    fp16_loss_scale=(None, "fixed loss scale above 0; None adapts it"),
    fp16_scale_window=(1000.0, "good steps after which the adaptive loss scale doubles"),
    fp16_opt=(False, "keep optimizer state of half matrices in half precision"),
    bf16=(
        None,
        "compute in bfloat16 if that is safe (autocast); weights and optimizer stay in float32. None: priors do on "
        "GPUs that have it, unless fp16 is on",
    ),
)

_group(
    "train_test_eval",
    labels=(True, "condition on artist, genre and timing"),
    labels_v3=(False, "v3 label tables: one genre per song instead of a bag of genre words"),
    ema=(True, "keep an exponential moving average of the weights"),
    ema_fused=(True, "keep the average in one flat tensor"),
    ema_warmup=(
        True,
        "let update t of the average keep at most (1 + t) / (10 + t) of it, so that it forgets its start",
    ),
    cpu_ema=(False, "keep the average in host memory"),
    cpu_ema_freq=(100, "steps between two updates of the average in host memory"),
    train=(False, "train"),
    test=(False, "evaluate on the held-out songs after each epoch"),
    iters_before_update=(1, "batches whose gradients are added up before one update"),
    mu=(None, "decay of the weight average, below 1; None or 0 chooses 1 - (bs * processes / 8) / 1000"),
)

_group(
    "audio",
    n_fft=(1024, "kept for old files and not used: spectral_loss and its metrics have an FFT of 2048"),
    hop_length=(256, "kept for old files and not used: their hop is 256 samples"),
    window_size=(1024, "kept for old files and not used: their window is 1536 samples"),
    sr=(44100, "sample rate in Hz"),
    channels=(2, "channels read from files; they are mixed to mono before the VQ-VAE"),
    n_segment=(1, "parts that reconstructions for the log are decoded in; more take less memory"),
    sample_length=(0, "samples in one training chunk"),
    use_nonrelative_specloss=(True, "divide spectral losses by the data's bandwidth, not by each item's own"),
    multispec_loss_n_fft=([2048, 1024, 512], "FFT sizes of the multi-resolution spectral loss"),
    multispec_loss_hop_length=([240, 120, 50], "hops of the multi-resolution spectral loss, in samples"),
    multispec_loss_window_size=([1200, 600, 240], "windows of the multi-resolution spectral loss, in samples"),
)

_group(
    "distributed",
    bucket=(128, "megabytes of gradients sent at a time between processes"),
    master_addr=("", "address of the host of rank 0; empty finds it out"),
    port=(29500, "free TCP port on that host, where the processes meet; MASTER_PORT of the environment wins"),
    fsdp=(False, "shard weights, gradients, optimizer state and average over the processes"),
)

# ------------------------------------------------------------------------------------------------- named sets


def _register(name: str, /, *parents: Hyperparams, **values: Any) -> Hyperparams:
    merged = Hyperparams()
    for parent in parents:
        merged.update(parent)
    merged.update(values)
    HPARAMS_REGISTRY[name] = merged
    return merged


def _released(path: str) -> str:
    return f"{REMOTE_PREFIX}jukebox/models/{path}"


def _shipped(name: str) -> str:
    """A checkpoint that is part of the package."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo", name)


teeny = _register("teeny")
easy = _register("easy", sr=22050)

# Released models (paper, tables 4 to 6). ------------------------------------------------------------------

vqvae = _register(
    "vqvae",
    levels=3,
    downs_t=[3, 2, 2],
    strides_t=[2, 2, 2],
    emb_width=64,
    l_bins=2048,
    l_mu=0.99,
    commit=0.02,
    spectral=0.0,
    multispectral=1.0,
    hvqvae_multipliers=[2, 1, 1],
    loss_fn="lmix",
    lmix_l2=1.0,
    lmix_linf=0.02,
    width=32,
    depth=4,
    m_conv=1.0,
    dilation_growth_rate=3,
    restore_vqvae=_released("5b/vqvae.pth.tar"),
)

_labels_v2 = Hyperparams(y_bins=[120, 4111], t_bins=128, max_bow_genre_size=5, n_vocab=80)  # 5b models
_labels_v3 = Hyperparams(y_bins=[604, 7898], t_bins=64, max_bow_genre_size=1, n_vocab=79)  # 1b models

_released_upsampler = Hyperparams(
    _labels_v2,
    n_ctx=8192,
    prior_width=1920,
    prior_depth=72,
    heads=1,
    attn_order=2,
    blocks=128,
    init_scale=0.4,
    c_res=1,
    cond_width=1024,
    cond_depth=16,
    cond_dilation_growth_rate=3,
    cond_dilation_cycle=8,
    cond_c_res=1,
    use_tokens=False,
    prime_loss_fraction=0.0,
    fp16_params=False,
)
upsampler_level_0 = _register(
    "upsampler_level_0", _released_upsampler, level=0, restore_prior=_released("5b/prior_level_0.pth.tar")
)
upsampler_level_1 = _register(
    "upsampler_level_1",
    _released_upsampler,
    level=1,
    cond_res_scale=True,
    restore_prior=_released("5b/prior_level_1.pth.tar"),
)

prior_5b = _register(
    "prior_5b",
    _labels_v2,
    level=2,
    n_ctx=8192,
    prior_width=4800,
    prior_depth=72,
    heads=8,
    attn_order=2,
    blocks=128,
    init_scale=0.1,
    c_res=1,
    beta2=0.925,
    min_duration=60.0,
    max_duration=600.0,
    use_tokens=False,
    n_tokens=0,
    prime_loss_fraction=0.0,
    merged_decoder=True,
    restore_prior=_released("5b/prior_level_2.pth.tar"),
    fp16_params=True,
)
prior_5b_lyrics = _register(
    "prior_5b_lyrics",
    _labels_v2,
    level=2,
    n_ctx=8192,
    prior_width=4800,
    prior_depth=79,
    heads=8,
    attn_order=10,
    blocks=128,
    init_scale=0.1,
    c_res=1,
    prime_width=1280,
    prime_depth=18,
    prime_heads=4,
    prime_attn_order=2,
    prime_blocks=32,
    prime_init_scale=0.7,
    prime_c_res=1,
    min_duration=23.8,
    max_duration=600.0,
    use_tokens=True,
    n_tokens=512,
    prime_loss_fraction=0.4,
    merged_decoder=True,
    restore_prior=_released("5b_lyrics/prior_level_2.pth.tar"),
    fp16_params=True,
    alignment_layer=68,
    alignment_head=2,
)
prior_1b_lyrics = _register(
    "prior_1b_lyrics",
    _labels_v3,
    level=2,
    n_ctx=6144,
    prior_width=2048,
    prior_depth=72,
    heads=2,
    attn_order=12,
    blocks=64,
    init_scale=0.2,
    c_res=1,
    labels_v3=True,
    min_duration=17.84,
    max_duration=600.0,
    use_tokens=True,
    n_tokens=384,
    prime_loss_fraction=0.4,
    single_enc_dec=True,
    restore_prior=_released("1b_lyrics/prior_level_2.pth.tar"),
    fp16_params=False,
    alignment_layer=63,
    alignment_head=0,
)

# Small models to train yourself (paper, table 7). -----------------------------------------------------------

small_vqvae = _register(
    "small_vqvae",
    sr=22050,
    levels=2,
    downs_t=[5, 3],
    strides_t=[2, 2],
    emb_width=64,
    l_bins=1024,
    l_mu=0.99,
    commit=0.02,
    spectral=0.0,
    multispectral=1.0,
    loss_fn="l2",
    width=32,
    depth=4,
    m_conv=1.0,
    dilation_growth_rate=3,
)

small_prior = _register(
    "small_prior",
    n_ctx=8192,
    prior_width=1024,
    prior_depth=48,
    heads=1,
    c_res=1,
    attn_order=2,
    blocks=64,
    init_scale=0.7,
)

_small_labels = Hyperparams(
    labels=True,
    labels_v3=True,
    y_bins=[10, 100],  # set to (genres + 1, artists + 1) of your own data
    max_bow_genre_size=1,
    min_duration=60.0,
    max_duration=600.0,
    t_bins=64,
)
_small_lyrics = Hyperparams(prime_loss_fraction=0.4, use_tokens=True, n_tokens=384, n_vocab=79)

small_labelled_prior = _register("small_labelled_prior", small_prior, _small_labels)
small_single_enc_dec_prior = _register(
    "small_single_enc_dec_prior",
    _small_labels,
    _small_lyrics,
    n_ctx=6144,
    prior_width=1024,
    prior_depth=48,
    heads=2,
    attn_order=12,
    blocks=64,
    init_scale=0.7,
    c_res=1,
    single_enc_dec=True,
)
small_sep_enc_dec_prior = _register(
    "small_sep_enc_dec_prior",
    _small_labels,
    _small_lyrics,
    n_ctx=6144,
    prior_width=1024,
    prior_depth=50,
    heads=2,
    attn_order=8,
    blocks=64,
    init_scale=0.7,
    c_res=1,
    prime_width=256,
    prime_depth=9,
    prime_heads=2,
    prime_attn_order=2,
    prime_blocks=32,
    prime_init_scale=0.7,
    prime_c_res=1,
)
small_upsampler = _register(
    "small_upsampler",
    small_prior,
    cond_width=512,
    cond_depth=16,
    cond_dilation_growth_rate=3,
    cond_dilation_cycle=8,
    cond_c_res=1,
)

# Models for a laptop's processor: minutes to train, seconds to sample (examples/quickstart.py). ----------------

tiny_vqvae = _register(
    "tiny_vqvae",
    sr=11025,
    channels=1,
    levels=2,
    downs_t=[2, 1],
    strides_t=[4, 4],
    emb_width=32,
    l_bins=256,
    l_mu=0.96,  # forgets quickly, so that a short training can revive unused codes
    revival_threshold=0.1,
    commit=0.02,
    loss_fn="l2",
    width=48,
    depth=4,
    m_conv=1.0,
    dilation_growth_rate=3,
    multispec_loss_n_fft=[1024, 512, 256],
    multispec_loss_hop_length=[256, 128, 64],
    multispec_loss_window_size=[600, 300, 120],
)

_tiny_attention = Hyperparams(
    sr=11025, n_ctx=512, prior_width=128, prior_depth=6, heads=2, attn_order=2, blocks=16, m_attn=0.5, init_scale=1.0
)
tiny_prior = _register(
    "tiny_prior",
    _tiny_attention,
    level=1,
    labels=True,
    labels_v3=True,
    y_bins=[5, 5],  # 4 genres and 4 artists of the synthesiser, and the unknown one
    max_bow_genre_size=1,
    min_duration=3.0,
    max_duration=60.0,
    t_bins=16,
)
tiny_lyrics_prior = _register(  # reads lyrics; timed ones (.lrc files) teach it where they are sung
    "tiny_lyrics_prior",
    tiny_prior,
    prior_width=192,
    prior_depth=8,
    attn_order=6,
    use_tokens=True,
    n_tokens=64,
    n_vocab=79,
    prime_width=96,
    prime_depth=3,
    prime_heads=2,
    prime_loss_fraction=0.1,
    align_loss=0.6,
    beta2=0.98,
    weight_decay=0.01,
)
tiny_upsampler = _register(
    "tiny_upsampler",
    _tiny_attention,
    level=0,
    labels=False,
    cond_width=64,
    cond_depth=4,
    cond_dilation_growth_rate=3,
)

# The demo model, MODELS["demo"], trained by `make demo-model` on synthesised songs; docs/demo.md has its figures. -----

demo_vqvae = _register(
    "demo_vqvae",
    tiny_vqvae,
    levels=3,
    downs_t=[1, 1, 1],
    strides_t=[8, 4, 4],
    l_bins=512,
    width=64,
    restore_vqvae=_shipped("vqvae.pth.tar"),
)
demo_prior = _register(
    "demo_prior",
    tiny_lyrics_prior,
    level=2,
    n_ctx=576,  # 6.7 s
    n_tokens=96,  # all lyrics of a song of 10 s
    min_duration=7.0,
    max_duration=30.0,
    song_duration=10.04,
    song_lyrics="mila sola timi\nkalu mesi loki\nsama tole kisu\n",
    prime_loss_fraction=0.02,  # syllables are drawn at random: there is little to predict
    alignment_layer=3,
    alignment_head=0,
    alignment_shift=1,
    restore_prior=_shipped("prior_level_2.pth.tar"),
)
_demo_upsampler = Hyperparams(tiny_upsampler, prior_width=160, cond_width=96, beta2=0.98, weight_decay=0.01)
demo_upsampler_1 = _register(
    "demo_upsampler_1", _demo_upsampler, level=1, restore_prior=_shipped("prior_level_1.pth.tar")
)
demo_upsampler_0 = _register(
    "demo_upsampler_0", _demo_upsampler, level=0, restore_prior=_shipped("prior_level_0.pth.tar")
)

# Training modes. -------------------------------------------------------------------------------------------

all_fp16 = _register("all_fp16", fp16=True, fp16_params=True, fp16_opt=True, fp16_scale_window=250)
cpu_ema = _register("cpu_ema", ema=True, cpu_ema=True, cpu_ema_freq=100, ema_fused=False)


# ------------------------------------------------------------------------------------------------- composition


def pick(options: type[Options], hps: Mapping[str, Any]) -> Options:
    """A dataclass whose fields are named as hyper-parameters; a key that is missing keeps the field's default."""
    return options(**{field.name: hps[field.name] for field in fields(options) if field.name in hps})  # type: ignore[arg-type]


def all_defaults() -> Hyperparams:
    """Every key with its default, all groups together; lists are the caller's own."""
    return Hyperparams({key: _own(value) for group in DEFAULTS.values() for key, value in group.items()})


def _own(value: Any) -> Any:
    """The value; of a list or tuple a new list, which may be changed."""
    return list(value) if isinstance(value, (list, tuple)) else value


def check_value(key: str, value: Any) -> Any:
    """Returns the value of a known key if its type fits the default's, else raises HyperparamsError.

    Whole floats are accepted for ints (`--bs=4.0`) and ints for floats. Tuples become lists, which hold whole numbers.
    Numbers of numpy and paths become plain ones. A key whose default is None takes None or its own types.
    """
    default = all_defaults()[key]
    value = _own(value)
    takes_list = isinstance(default, list) or list in (*_ALSO.get(key, ()), *_NONE_TYPES.get(key, ()))
    whole = isinstance(value, list) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    if takes_list and isinstance(value, list) and not whole:
        raise HyperparamsError(f"{key}={','.join(map(str, value))}: expected whole numbers with commas between")
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()
    if default is None:
        allowed = _NONE_TYPES.get(key, (object,))
        if isinstance(value, float) and value.is_integer() and int in allowed and float not in allowed:
            value = int(value)
        if value is None or (isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))):
            return value
        names = " or ".join(t.__name__ for t in allowed)
        raise HyperparamsError(f"{key}={value!r}: expected {names} or None")
    if isinstance(value, _ALSO.get(key, ())):
        return value
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        if value is None or (isinstance(value, (int, float)) and value in (0, 1)):  # None switches off
            return bool(value)
    elif isinstance(default, int):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
    elif isinstance(default, float):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif isinstance(default, str):
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value)  # a run may be called 2024
    elif isinstance(value, type(default)):
        return value
    raise HyperparamsError(
        f"{key}={value!r} is a {type(value).__name__}: expected a {type(default).__name__}, as its default {default!r}"
    )


# Least and most of what decides how large a model is, by the end of the key: more than any model has.
_SIZES: dict[str, tuple[float, float]] = {
    "levels": (1, 16),
    "level": (0, 15),
    "depth": (0, 1024),
    "width": (0, 2**16),
    "l_bins": (1, 2**20),
    "t_bins": (1, 2**20),
    "n_vocab": (0, 2**20),
    "n_tokens": (0, 2**20),
    "n_ctx": (0, 2**22),
    "heads": (1, 1024),
    "blocks": (1, 2**16),
    "spread": (0, 2**16),
    "m_attn": (0, 64),
    "m_mlp": (0, 64),
    "m_conv": (0, 64),
    "dilation_growth_rate": (0, 64),
    "dilation_cycle": (1, 64),
    "max_bow_genre_size": (0, 2**16),
    "sr": (1, 10**6),
    "duration": (0, 10**7),
    "dropout": (0, 1),
}


def read_saved(saved: Mapping[str, Any], path: str) -> Hyperparams:
    """Hyper-parameters that a file holds, with the defaults of those that it lacks.

    Args:
        saved: of any origin; names that are not known here are kept as they are.
        path: of the file, for messages.

    Raises:
        HyperparamsError: a value of the wrong type, that is not finite, or of no size that a model has.
    """
    hps = all_defaults()
    for key, value in saved.items():
        if key not in hps:
            continue
        try:
            value = check_value(key, value)
            numbers = value if isinstance(value, (list, tuple)) else [value]
            numbers = [n for n in numbers if isinstance(n, (int, float)) and not isinstance(n, bool)]
            end = next((end for end in _SIZES if key == end or key.endswith(f"_{end}")), "")
            least, most = _SIZES.get(end, (-(2.0**63), 2.0**63))
            if not all(least <= n <= most for n in numbers) or len(numbers) > 64:  # NaN neither
                raise HyperparamsError(f"{key}={str(value)[:60]}: no model has such a size")
        except (HyperparamsError, OverflowError) as error:
            raise HyperparamsError(
                f"{path}: {str(error)[:300]}; the file is damaged, or was not written here"
            ) from error
        hps[key] = value
    for key in ("downs_t", "strides_t", "hvqvae_multipliers"):
        each = hps[key]
        if each is not None and (len(each) < hps.levels or not all(1 <= n <= 16 for n in each)):
            raise HyperparamsError(f"{path}: {key}={each} does not fit levels={hps.levels}; the file is damaged")
    if samples_per_code(hps.strides_t[: hps.levels], hps.downs_t[: hps.levels])[-1] > 2**24:
        raise HyperparamsError(f"{path}: strides_t={hps.strides_t}, downs_t={hps.downs_t}: no model has such a code")
    return Hyperparams({**saved, **hps})


def setup_hparams(hparam_set_names: str | list[str] | tuple[str, ...], kwargs: Mapping[str, Any]) -> Hyperparams:
    """Composes hyper-parameters: all defaults, then the named sets from left to right, then the keywords.

    Args:
        hparam_set_names: names in HPARAMS_REGISTRY, or files `hparams.json` of runs, separated by commas or as a list;
            empty for only the defaults.
        kwargs: single values that win over the sets.

    Returns:
        A flat Hyperparams with every key.

    Raises:
        HyperparamsError: an unknown set or key, with the nearest known names, a value of the wrong type, or a file
            that is not a run's record.
    """
    if isinstance(hparam_set_names, str):
        hparam_set_names = hparam_set_names.split(",")
    hps = all_defaults()
    known = frozenset(hps)
    for name in (n.strip() for n in hparam_set_names):
        if not name:
            continue
        if name.endswith(".json"):
            _merge(hps, _recorded(name), known, f" in {name}")
            continue
        if name not in HPARAMS_REGISTRY:
            raise HyperparamsError(
                f"unknown hyper-parameter set {name!r}{did_you_mean(name, HPARAMS_REGISTRY)} "
                f"Known sets: {', '.join(sorted(HPARAMS_REGISTRY))}"
            )
        _merge(hps, HPARAMS_REGISTRY[name], known, f" in set {name!r}")
    _merge(hps, kwargs, known, "")
    return hps


def _recorded(path: str) -> dict[str, Any]:
    """The hyper-parameters in a run's `hparams.json`."""
    try:
        found = read_json(expand_path(path))["hps"]
        return dict(found)
    except OSError as error:
        raise HyperparamsError(f"--hps={path}: {error.strerror}; give logs/RUN/hparams.json") from error
    except (ValueError, LookupError, TypeError) as error:
        raise HyperparamsError(f"--hps={path} is not the record of a run: give logs/RUN/hparams.json") from error


def take_hparams(hps: object, *more: str) -> Hyperparams:
    """The hyper-parameters that an object of any class has: a dict, a namespace, or a custom class.

    Args:
        more: names to look for besides those that have a default.
    """
    if isinstance(hps, Mapping):
        return Hyperparams(hps)
    found = Hyperparams()
    for key in (*all_defaults(), *more):
        with contextlib.suppress(AttributeError, KeyError):
            found[key] = getattr(hps, key)
    return found


def _merge(hps: Hyperparams, values: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for key, value in values.items():
        if key not in known:
            if gone := gone_key(key):
                raise HyperparamsError(f"hyper-parameter {key!r}{where}{gone}")
            raise HyperparamsError(f"unknown hyper-parameter {key!r}{where}{did_you_mean(key, known)}")
        hps[key] = check_value(key, value)
