"""A wide residual network (arXiv 1605.07146) with a place for noise before every ReLU.

    fasttrain sweep wide_resnet.toml

Pre-activation blocks in three groups of widths 16k, 32k, 64k (here `base` for 16), the second and
third of stride 2. A leg's `noise` is the standard deviation of what `Noise` adds in training
(arXiv 1907.04595); without a leg that has it, `Noise` is nothing.
"""

import torch
from torch import nn

from fasttrain.settings.networks.noise import Noise


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(inside), Noise(), nn.ReLU())
        self.rest = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            Noise(),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
        )
        same = inside == outside and stride == 1
        self.shortcut = None if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.first(x)
        return self.rest(active) + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """WRN-(6 blocks + 4)-(widen)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        blocks: int = 2,
        widen: int = 2,
        base: int = 16,
    ) -> None:
        super().__init__()
        widths = [base, *(base * widen * factor for factor in (1, 2, 4))]
        layers: list[nn.Module] = [nn.Conv2d(shape[0], base, 3, padding=1, bias=False)]
        for group, (inside, outside) in enumerate(zip(widths, widths[1:], strict=False)):
            for block in range(blocks):
                first = block == 0
                stride = 2 if first and group > 0 else 1
                layers.append(Block(inside if first else outside, outside, stride))
        layers += [nn.BatchNorm2d(widths[-1]), Noise(), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images).mean(dim=(2, 3)))
