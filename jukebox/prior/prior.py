"""The prior of one level: VQ-VAE codes in, their probability or new codes out (paper, section 4).

Joins the autoregressive model with what it is conditioned on. A level below the top reads the codes of the level above.
The top level reads timing, and lyrics in one of the two designs of `lyrics.py`. Sampling loops are in `engine.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, overload

import torch
from torch import Tensor, nn

from jukebox.prior.autoregressive import ConditionalAutoregressive2D
from jukebox.prior.conditioners import Conditioner, LabelConditioner
from jukebox.prior.engine import Progress, generate
from jukebox.prior.logits import SamplingOptions
from jukebox.prior.lyrics import (
    LyricEncoder,
    MergedVocabulary,
    guided_alignment_loss,
    layers_to_record,
    make_encoder_modules,
)
from jukebox.transformer.config import TransformerConfig
from jukebox.utils.errors import UserError
from jukebox.utils.label_row import LabelRow
from jukebox.utils.levels import calculate_strides, samples_per_code
from jukebox.utils.precision import read_dtype

_LYRICS = ("use_tokens", "prime_loss_fraction", "n_tokens", "bins")  # the part of prime_kwargs that shapes no encoder


class Labeller(Protocol):
    """What a prior asks of the makers of label rows in `jukebox.data.labels`."""

    n_tokens: int

    def get_batch_labels(self, metas: Sequence[Mapping[str, Any]], device: torch.device | str = ...) -> dict[str, Any]:
        """Labels of several songs."""

    def set_y_lyric_tokens(self, ys: Tensor, labels: Mapping[str, Any]) -> list[list[int]] | None:
        """Writes the lyrics of the rows' windows into the rows; returns their places in the songs' lyrics."""

    def state(self) -> dict[str, Any] | None:
        """All that is needed to make the same labeller elsewhere, of plain types."""


@dataclass(frozen=True)
class PriorOptions:
    """What a `SimplePrior` may be given besides its parts.

    Attributes:
        copy_input: not supported.
        labels_v3: v3 label tables.
        merged_decoder: output head of its own, see `ConditionalAutoregressive2D`; without effect if lyrics and codes
            are one sequence.
        single_enc_dec: lyrics and codes as one sequence.
        labeller: makes label rows and moves them to a window.
        encoder, decoder: the VQ-VAE's encode and decode.
        alignment_layer, alignment_head: where lyrics are aligned to music, or None.
        align_loss: weight of the loss that teaches that head.
    """

    copy_input: bool = False
    labels_v3: bool = False
    merged_decoder: bool = False
    single_enc_dec: bool = False
    labeller: Labeller | None = None
    encoder: Callable[..., list[Tensor]] | None = None
    decoder: Callable[..., Tensor] | None = None
    alignment_layer: int | None = None
    alignment_head: int | None = None
    align_loss: float = 0.0


class SimplePrior(nn.Module):
    """An autoregressive model of the codes of one level.

    Args:
        z_shapes: per level, (codes,) in one window of this prior.
        l_bins: codebook entries.
        level: this prior's level, 0 the finest.
        downs_t, strides_t: the VQ-VAE's stages, from which the ratios between levels follow.
        labels: condition on artist, genre and, at the top, timing.
        prior_kwargs: values of the decoder's `TransformerConfig`, or `config`, a whole one.
        x_cond_kwargs: `Conditioner` on the level above.
        y_cond_kwargs: `LabelConditioner`.
        prime_kwargs: use_tokens, prime_loss_fraction, n_tokens, bins, and for a separate encoder what prior_kwargs has.
        options: the rest by name, see `PriorOptions`.

    Raises:
        TypeError: names an option that there is not.
        UserError: parts that do not fit each other.

    Attributes:
        n_ctx: codes in one window; n_tokens: lyric characters in one window.
        raw_to_tokens: raw samples per code; sample_length: raw samples in one window.
        cond_downsample: codes of this level per code of the level above, None at the top.
        prior: the autoregressive model.
        alignment_layer, alignment_head: where lyrics are aligned to music, or None.
    """

    step: int  # steps trained, as its checkpoint says

    def __init__(
        self,
        z_shapes: Sequence[Sequence[int]],
        l_bins: int,
        level: int,
        downs_t: Sequence[int],
        strides_t: Sequence[int],
        labels: bool,
        prior_kwargs: Mapping[str, Any],
        x_cond_kwargs: Mapping[str, Any],
        y_cond_kwargs: Mapping[str, Any],
        prime_kwargs: Mapping[str, Any],
        **options: Any,
    ) -> None:
        super().__init__()
        given = PriorOptions(**options)
        if given.copy_input:
            raise UserError("copy_input=True is not supported: no released model uses it; leave it False")
        self.level, self.levels = level, len(z_shapes)
        self.z_shapes = [tuple(shape) for shape in z_shapes]
        self.z_shape = self.z_shapes[level]
        self.n_ctx = math.prod(self.z_shape)
        self.l_bins = l_bins
        self.downsamples = calculate_strides(strides_t, downs_t)
        self.raw_to_tokens = samples_per_code(strides_t, downs_t)[level]
        self.sample_length = self.n_ctx * self.raw_to_tokens
        self.labels, self.labels_v3 = labels, given.labels_v3
        self.labeller = given.labeller
        self._encoder, self._decoder = given.encoder, given.decoder

        self.x_cond = level != self.levels - 1  # codes of the level above
        self.y_cond = labels
        self.single_enc_dec = given.single_enc_dec
        self.cond_downsample = self.downsamples[level + 1] if self.x_cond else None
        self.use_tokens = bool(prime_kwargs["use_tokens"])
        self.n_tokens = int(prime_kwargs["n_tokens"])
        self.prime_loss_fraction = float(prime_kwargs["prime_loss_fraction"])
        self.alignment_layer, self.alignment_head = given.alignment_layer, given.alignment_head
        self.align_loss = given.align_loss
        decoder = {k: v for k, v in prior_kwargs.items() if k not in ("input_shape", "bins")}
        config = TransformerConfig.of(self.n_ctx, **decoder)
        self._check(config.blocks, prime_kwargs)

        if self.x_cond:
            above = level + 1
            self.conditioner_blocks = nn.ModuleList(
                [Conditioner(self.z_shapes[above], l_bins, downs_t[above], strides_t[above], **x_cond_kwargs)]
            )
        if self.y_cond:
            self.y_emb = LabelConditioner(n_time=self.n_ctx, include_time_signal=not self.x_cond, **y_cond_kwargs)

        self.merged: MergedVocabulary | None = None
        self.lyric_encoder: LyricEncoder | None = None
        if self.single_enc_dec:
            self.merged = MergedVocabulary(prime_kwargs["bins"], l_bins, self.n_tokens, self.n_ctx)
            config = replace(config, n_ctx=self.merged.length, prime_len=self.n_tokens)
        elif self.use_tokens:
            encoder = {k: v for k, v in prime_kwargs.items() if k not in _LYRICS}
            modules = make_encoder_modules(
                self.n_tokens, prime_kwargs["bins"], config, TransformerConfig.of(self.n_tokens, **encoder)
            )
            for name, module in modules.items():
                self.add_module(name, module)
            self.lyric_encoder = LyricEncoder(**modules)  # type: ignore[arg-type]
            config = replace(config, encoder_dims=self.n_tokens)
        self.prior = ConditionalAutoregressive2D(
            self.z_shape if self.merged is None else (self.merged.length,),
            l_bins if self.merged is None else self.merged.bins,
            x_cond=self.x_cond or self.y_cond,
            y_cond=self.y_cond,
            merged_decoder=given.merged_decoder and self.merged is None,
            config=config,
        )
        self.gen_loss_dims = self.n_ctx
        self.prime_loss_dims = self.n_tokens if self.use_tokens else 0
        self.total_loss_dims = self.gen_loss_dims + self.prime_loss_dims

    def _check(self, blocks: int | None, prime_kwargs: Mapping[str, Any]) -> None:
        if self.single_enc_dec and not (self.labels and self.use_tokens and self.n_tokens):
            raise UserError("single_enc_dec=True needs --labels=True, --use_tokens=True and n_tokens above 0")
        if self.single_enc_dec and self.x_cond:
            raise UserError(f"level={self.level}: lyrics are read only at the top level, {self.levels - 1}")
        if self.use_tokens and (not self.labels or self.n_tokens < 1 or prime_kwargs["bins"] < 1):
            raise UserError("use_tokens=True needs --labels=True and n_tokens and n_vocab above 0")
        length = self.n_ctx + (self.n_tokens if self.single_enc_dec else 0)
        if blocks and length % blocks:
            parts = (
                f"n_tokens + n_ctx = {self.n_tokens} + {self.n_ctx}" if self.single_enc_dec else f"n_ctx={self.n_ctx}"
            )
            raise UserError(f"{parts} is not a multiple of blocks={blocks}: change one of them")

    @property
    def device(self) -> torch.device:
        """Where the weights are; what is given is moved there, and results are there."""
        return next(self.parameters()).device

    # ------------------------------------------------------------------------------------------ conditioning

    @overload
    def get_y(self, labels: Mapping[str, Any], start: int) -> Tensor | None: ...
    @overload
    def get_y(
        self, labels: Mapping[str, Any], start: int, get_indices: Literal[True]
    ) -> tuple[Tensor | None, list[list[int]] | None]: ...
    def get_y(
        self, labels: Mapping[str, Any], start: int, get_indices: bool = False
    ) -> Tensor | None | tuple[Tensor | None, list[list[int]] | None]:
        """Labels for the window that begins at code `start` of this level.

        Args:
            labels: {y: LongTensor [N, LabelRow.size], info: per song}, made for the start of the songs.
            get_indices: also return which character of the lyrics each lyric position holds (-1: padding).

        Returns:
            y [N, ...] with this prior's window length, the window's offset and its lyrics; None without labels.
        """
        if labels is None or not self.y_cond:
            return (None, None) if get_indices else None
        y = labels["y"].to(self.device, copy=True)
        y[:, LabelRow.length] = int(self.sample_length)
        y[:, LabelRow.offset] += int(start * self.raw_to_tokens)
        assert self.labeller is not None
        indices = self.labeller.set_y_lyric_tokens(y, labels)
        return (y, indices) if get_indices else y

    def get_z_conds(self, zs: Sequence[Tensor], start: int, end: int) -> list[Tensor] | None:
        """Codes of the level above that belong to codes start .. end - 1 of this level; None at the top.

        Raises:
            ValueError: borders that fall inside a code of the level above, or codes that are missing there.
        """
        if not self.x_cond:
            return None
        ratio = self.cond_downsample
        assert ratio is not None
        if start % ratio or end % ratio:
            raise ValueError(f"window {start} to {end} does not begin and end at a code of the level above ({ratio}:1)")
        z_cond = zs[self.level + 1][:, start // ratio : end // ratio].to(self.device)
        if z_cond.shape[1] != self.n_ctx // ratio:
            raise ValueError(f"{z_cond.shape[1]} codes of level {self.level + 1}, a window needs {self.n_ctx // ratio}")
        return [z_cond]

    def get_cond(
        self, z_conds: Sequence[Tensor] | None, y: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Conditioning of one window: (x_cond [N, L, D], y_cond [N, 1, D], lyrics [N, n_tokens]),
        each None if absent.
        """
        y_cond = timing = prime = None
        if y is not None and self.y_cond:
            row = replace(self.y_emb.row, tokens=self.n_tokens)
            if y.shape[1] != row.size:
                raise ValueError(
                    f"labels have {y.shape[1]} columns, this prior reads {self.y_emb.row.size} + {row.tokens}"
                )
            y = y.to(self.device)
            prime = y[:, row.lyrics]
            y_cond, timing = self.y_emb(y[:, : row.lyrics.start])
        elif self.y_cond:
            raise ValueError("this prior is conditioned on labels: give y")
        x_cond = self.conditioner_blocks[0](z_conds[0].to(self.device)) if self.x_cond and z_conds else timing
        if self.x_cond and not z_conds:
            raise ValueError(f"level {self.level} needs the codes of level {self.level + 1}: give z_conds")
        return x_cond, y_cond, prime

    def get_encoder_kv(
        self, prime: Tensor | None, fp16: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor | None:
        """What the separate lyric encoder makes of the lyrics, [N, n_tokens, D]; None without one.

        Args:
            prime: characters [N, n_tokens]; dtype, fp16: as in `z_forward`.
        """
        if self.lyric_encoder is None:
            return None
        assert prime is not None
        return self.lyric_encoder.encode(prime, read_dtype(fp16, dtype))

    # ------------------------------------------------------------------------------------------ codes and audio

    def use_encoder(self, encoder: Callable[..., list[Tensor]]) -> None:
        """Lets `encode` call this instead of the VQ-VAE's `encode`, such as a reader of codes made ahead of time."""
        self._encoder = encoder

    def encode(
        self, x: Tensor, start_level: int | None = None, end_level: int | None = None, bs_chunks: int = 1
    ) -> list[Tensor]:
        """Audio [N, T, 1] -> codes of this level and those above, by the VQ-VAE."""
        if self._encoder is None:
            raise ValueError("this prior was built without a VQ-VAE")
        start = self.level if start_level is None else start_level
        end = self.levels if end_level is None else end_level
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # codes do not depend on the precision
            return self._encoder(x, start_level=start, end_level=end, bs_chunks=bs_chunks)

    def decode(
        self, zs: Sequence[Tensor], start_level: int | None = None, end_level: int | None = None, bs_chunks: int = 1
    ) -> Tensor:
        """Codes, this level's first, -> audio [N, T, 1], by the VQ-VAE."""
        if self._decoder is None:
            raise ValueError("this prior was built without a VQ-VAE")
        start = self.level if start_level is None else start_level
        end = self.levels if end_level is None else end_level
        with torch.no_grad():
            return self._decoder(zs, start_level=start, end_level=end, bs_chunks=bs_chunks)

    # ------------------------------------------------------------------------------------------ likelihood

    def z_forward(
        self,
        z: Tensor,
        z_conds: Sequence[Tensor] = (),
        y: Tensor | None = None,
        fp16: bool = False,
        get_preds: bool = False,
        get_attn_weights: bool | Collection[int] = False,
        times: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]] | list[Tensor]:
        """Loss of one window of codes.

        Args:
            z: codes [N, n_ctx]; z_conds: codes of the level above in a list; y: labels, see `get_y`.
            dtype: type in which the transformers run, float32 if left out; `fp16` is short for torch.half.
            get_preds: put the logits into the metrics as `preds`.
            get_attn_weights: return recorded attention weights instead of a loss: True for all layers that attend to
                lyrics, or a set of such layers.
            times: when each lyric character is sung, see `guided_alignment_loss`; with `align_loss` above 0 that loss
                of the alignment layer and head is added, and put into the metrics as `align_loss`.

        Returns:
            (loss, {bpd, prime_loss, gen_loss}) in bits per token, or the list of weights in order of layers, each
            [N, H, n_ctx, n_tokens].
        """
        z = z.to(self.device)
        x_cond, y_cond, prime = self.get_cond(z_conds, y)
        dtype = read_dtype(fp16, dtype)
        guided = times is not None and self.align_loss > 0 and not get_attn_weights
        wanted = {self.alignment_layer} if guided else get_attn_weights
        record = layers_to_record(self.prior.transformer.lyric_layers, wanted)  # type: ignore[arg-type]
        if self.merged is not None:
            assert prime is not None
            symbols = self.merged.merge(prime, z)
            cond = self.merged.conditioning(x_cond, z.shape[0], self.prior.width, z.device)
            out = self.prior(symbols, cond, y_cond, record=record, dtype=dtype)
            prime_loss, gen_loss = out.prime_loss, out.gen_loss
        else:
            encoder_kv = self.get_encoder_kv(prime, dtype=dtype)
            out = self.prior(z, x_cond, y_cond, encoder_kv, record=record, dtype=dtype)
            gen_loss = out.loss
            if self.lyric_encoder is not None and encoder_kv is not None and prime is not None:
                prime_loss = self.lyric_encoder.loss(encoder_kv, prime)
            else:
                prime_loss = torch.zeros((), device=z.device)
        if get_attn_weights:
            return out.weights
        loss = (
            self.prime_loss_fraction * prime_loss * self.prime_loss_dims / self.total_loss_dims
            + gen_loss * self.gen_loss_dims / self.total_loss_dims
        )
        metrics = {"bpd": gen_loss.detach(), "prime_loss": prime_loss.detach(), "gen_loss": gen_loss.detach()}
        if guided:
            assert times is not None
            align_loss = guided_alignment_loss(out.weights[0][:, self.alignment_head], times, self.raw_to_tokens)
            loss = loss + self.align_loss * align_loss
            metrics["align_loss"] = align_loss.detach()
        if get_preds:
            metrics["preds"] = out.logits.detach()
        return loss, metrics

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        fp16: bool = False,
        decode: bool = False,
        get_preds: bool = False,
        times: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor | None, Tensor, dict[str, Tensor]]:
        """Loss of one window of audio [N, sample_length, 1]; for the rest see `z_forward`.

        Returns:
            (x_out, loss, metrics); x_out [N, T, 1] is the VQ-VAE's reconstruction if `decode` asks for it, else
            None.
        """
        z, *above = self.encode(x, bs_chunks=x.shape[0])
        result = self.z_forward(z, above[:1] if self.x_cond else (), y, fp16, get_preds, times=times, dtype=dtype)
        assert isinstance(result, tuple)
        loss, metrics = result
        x_out = self.decode([z, *above], bs_chunks=x.shape[0]) if decode else None
        return x_out, loss, metrics

    # ------------------------------------------------------------------------------------------ sampling

    def sample(
        self,
        n_samples: int,
        z: Tensor | None = None,
        z_conds: Sequence[Tensor] | None = None,
        y: Tensor | None = None,
        fp16: bool = False,
        temp: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.0,
        chunk_size: int | None = None,
        sample_tokens: int | None = None,
        noise: Tensor | None = None,
        progress: Progress | None = None,
        dtype: torch.dtype | None = None,
        options: SamplingOptions | None = None,
        engine: str = "auto",
    ) -> Tensor:
        """Draws codes of one window.

        Args:
            n_samples: batch size N.
            z: codes that are known already [N, M], fewer than wanted; None or empty for none.
            z_conds, y: conditioning of this window, see `get_z_conds` and `get_y`.
            dtype: type in which the transformers run, float32 if left out; `fp16` is short for torch.half.
            temp, top_k, top_p: see `SamplingOptions`; top_k=1 is greedy. `options` has all of them.
            chunk_size: most known positions in one pass; None as many as memory allows.
            sample_tokens: length of the result, known codes included; None is the whole window.
            noise: uniform numbers in [0, 1) [N, sample_tokens]; column i decides code i. None uses torch's generator.
            progress: called now and then with the number of codes that were drawn since, summed over the batch.
            engine: who draws, see `pick_engine`; "auto" is the fastest that works.

        Returns:
            Codes [N, sample_tokens].
        """
        options = options or SamplingOptions(temp, top_k, top_p)
        n_tokens = self.n_ctx if sample_tokens is None else sample_tokens
        z = None if z is None or z.shape[1] == 0 else z.to(self.device)
        if z is not None and z.shape[0] != n_samples:
            raise ValueError(f"n_samples={n_samples}, but z has {z.shape[0]} rows")
        dtype = read_dtype(fp16, dtype)
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                x_cond, y_cond, prime = self.get_cond(z_conds, y)
                encoder_kv = self.get_encoder_kv(prime, dtype=dtype)
                prompt = z
                if self.merged is not None:
                    assert prime is not None
                    prompt = self.merged.merge(prime, z)
                    x_cond = self.merged.conditioning(x_cond, n_samples, self.prior.width, prime.device)
                    n_tokens += self.n_tokens
                    if noise is not None:  # the lyrics are given: their columns are never read
                        noise = torch.nn.functional.pad(noise, (self.n_tokens, 0))
                tokens, _ = generate(
                    self.prior,
                    n_samples,
                    n_tokens,
                    prompt,
                    x_cond,
                    y_cond,
                    encoder_kv,
                    dtype,
                    options,
                    chunk_size,
                    noise,
                    progress=progress,
                    engine=engine,
                )
            tokens = tokens.clone()  # out of inference mode, so that callers may use it as they like
            return tokens if self.merged is None else self.merged.codes(tokens)
        finally:
            self.train(was_training)
