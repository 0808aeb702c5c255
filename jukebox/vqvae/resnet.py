"""The dilated residual stack that the VQ-VAE and the prior's conditioner share.

Change here what one residual block computes. How blocks run fast on a CPU is in `cpu/`; the parameters' names are
part of the checkpoint format and stay. Source: Jukebox (arXiv 2005.00341), appendix B.1 and figure 11.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jukebox.vqvae.config import BLOCKS_NAMES, ConvConfig


class ResConv1DBlock(nn.Module):
    """x + scale * conv1x1(relu(conv3(relu(x)))), with a dilated kernel-3 convolution.

    Args:
        n_in: channels of input and output.
        n_state: hidden channels.
        dilation: distance between the taps of the kernel-3 convolution, in positions.
        zero_out: start the residual branch at zero.
        res_scale: factor on the residual branch.
    """

    def __init__(self, n_in: int, n_state: int, dilation: int = 1, zero_out: bool = False, res_scale: float = 1.0):
        super().__init__()
        self.model = nn.Sequential(
            nn.ReLU(),
            nn.Conv1d(n_in, n_state, 3, stride=1, padding=dilation, dilation=dilation),
            nn.ReLU(),
            nn.Conv1d(n_state, n_in, 1),
        )
        self.dilation = dilation
        self.res_scale = res_scale
        if zero_out:
            for parameter in self.model[-1].parameters():
                nn.init.zeros_(parameter)

    def tensors(self) -> tuple[Tensor, ...]:
        """Weight [n_state, n_in, 3] and bias of the dilated convolution, [n_in, n_state, 1] and bias of the 1x1 one."""
        return tuple(self.model.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, T] -> [N, C, T]."""
        branch = self.model(x)
        return x + branch if self.res_scale == 1.0 else x + self.res_scale * branch


class Resnet1D(nn.Module):
    """A stack of residual blocks whose dilations grow.

    Args:
        config: its shape.
        reverse: reverse the list of blocks once the dilations are set.
    """

    def __init__(self, config: ConvConfig, reverse: bool = False):
        super().__init__()
        hidden = int(config.m_conv * config.width)
        scale = 1.0 / math.sqrt(config.depth) if config.res_scale and config.depth else 1.0
        blocks = [ResConv1DBlock(config.width, hidden, d, config.zero_out, scale) for d in config.dilations]
        self.blocks_name = config.blocks_name
        self.checkpoint_res = bool(config.checkpoint_res)
        self.add_module(config.blocks_name, nn.ModuleList(reversed(blocks) if reverse else blocks))
        self.register_load_state_dict_pre_hook(_accept_other_name)

    @property
    def residual_blocks(self) -> list[ResConv1DBlock]:
        """The blocks in the order in which they run."""
        return list(getattr(self, self.blocks_name))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, T] -> [N, C, T]."""
        recompute = self.checkpoint_res and torch.is_grad_enabled()
        for block in self.residual_blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x


def _accept_other_name(module: Resnet1D, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Renames the list of blocks in a state dict that is being loaded, if it was saved under the other name."""
    other = next(name for name in BLOCKS_NAMES if name != module.blocks_name)
    for key in [k for k in state_dict if k.startswith(f"{prefix}{other}.")]:
        state_dict[f"{prefix}{module.blocks_name}.{key[len(prefix) + len(other) + 1 :]}"] = state_dict.pop(key)
