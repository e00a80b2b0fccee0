"""Convolutions that are normalised by their weights, and what follows them instead of a batch norm.

    w_i = g_i v_i / ||v_i||        of every filter i

v is what trains and g, the norms at initialisation, is frozen (arXiv 2209.03695, its ConvNet with
weight norm): every filter is scale-invariant by itself, and outputs depend on no other image.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 1e-18
"""norm of a filter below which it is no longer normalised: its squares still fit fp32"""


class WeightNormConv(nn.Conv2d):
    """A convolution of fixed filter norms; its `weight` is v, with gradients orthogonal to v."""

    gain: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("gain", self._norms().detach())

    def _norms(self) -> Tensor:
        """||v_i||: (out_channels,)."""
        # A filter that is dead has no gradient, and on the joint sphere shrinks at every step until
        # its squares underflow: it stays dead, where 0/0 would end the run.
        return torch.linalg.vector_norm(self.weight, dim=(1, 2, 3)).clamp_min(SMALLEST)

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight * (self.gain / self._norms()).view(-1, 1, 1, 1)
        return self._conv_forward(input, weight, self.bias)


class ReLUPool(nn.Module):
    """ReLU, then max-pooling by the caller's windows: a `NormReLUPool` without its norm."""

    def forward(self, input: Tensor, pool: int | tuple[int, int] = 1) -> Tensor:
        """(N, C, H, W) -> (N, C, H // KH, W // KW)."""
        out = F.relu(input)
        return out if pool in (1, (1, 1)) else F.max_pool2d(out, pool)
