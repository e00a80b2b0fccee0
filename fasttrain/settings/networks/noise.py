"""Noise on activations (arXiv 1907.04595): before the ReLU, as another large learning rate has it.

    out = maxpool(relu(normalised + std z)),   z ~ N(0, 1) of shape (H, W)

z is one draw a step and layer, shared by images and channels, and by the models of a pack, each
with a standard deviation of its own, which lies on the device. It comes from torch's generator,
which training seeds by seed and epoch; a CUDA graph reads that seed, and how much was drawn since,
from the device. In eval mode there is none.

A network of one's own has it in every `NormReLUPool` with a ReLU, and wherever it calls a `Noise`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasttrain_kernels import NormReLUPool


class NoisyNorm(NormReLUPool):
    """A `NormReLUPool` with noise before its ReLU; states go both ways.

    Args:
        num_features: channels of all models.
        stds: standard deviation of the noise of each model.
        arguments: of `NormReLUPool`.
    """

    std: Tensor

    def __init__(self, num_features: int, stds: Sequence[float], **arguments: Any) -> None:
        super().__init__(num_features, relu=False, **arguments)
        each = torch.tensor(stds).repeat_interleave(num_features // len(stds))
        self.register_buffer("std", each.view(1, -1, 1, 1), persistent=False)

    def forward(self, input: Tensor, pool: int | tuple[int, int] = 1) -> Tensor:
        """As `NormReLUPool.forward`."""
        out = super().forward(input)
        if self.training:
            noise = torch.randn(out.shape[2:], dtype=out.dtype, device=out.device)
            out = out + self.std.to(out.dtype) * noise
        out = F.relu(out)
        return out if pool in (1, (1, 1)) else F.max_pool2d(out, pool)


class Noise(nn.Module):
    """A place for noise in a network of one's own: `relu(noise(x))`; nothing without noise.

    It has no parameters and no state. One draw is shared by images and channels.
    """

    std: float = 0.0
    """standard deviation, which a leg sets"""

    def forward(self, input: Tensor) -> Tensor:
        """Images (N, C, H, W) and noise."""
        if not self.training or not self.std:
            return input
        noise = torch.randn(input.shape[2:], dtype=input.dtype, device=input.device)
        return input + self.std * noise


def takes_noise(model: nn.Module) -> bool:
    """Whether a network has a place for noise."""
    return any(isinstance(m, Noise) or _is_place(m) for m in model.modules())


def _is_place(module: nn.Module) -> bool:
    return type(module) is NormReLUPool and module.relu


def drops(model: nn.Module) -> bool:
    """Whether a network draws what it drops in training."""
    kind = nn.modules.dropout._DropoutNd
    return any(isinstance(module, kind) and module.p > 0 for module in model.modules())


def add_noise_(model: nn.Module, stds: Sequence[float]) -> None:
    """Let a network have noise before the ReLU of every normalisation, and in every `Noise`.

    Args:
        model: of as many models as there are standard deviations; of one if it has a `Noise`.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, Noise):
            (module.std,) = stds
        if _is_place(module):
            assert isinstance(module, NormReLUPool)
            noisy = NoisyNorm(
                module.num_features,
                stds,
                eps=module.epsilon,
                momentum=module.momentum,
                affine=module.affine,
            )
            noisy.load_state_dict(module.state_dict())
            place, _, own = name.rpartition(".")
            # Under the same name, so that the order of modules stays.
            setattr(model.get_submodule(place), own, noisy)
