"""The networks of the baseline, in plain torch modules: what fasttrain's own are compared with.

SI ConvNet and SI ResNet-18 as arXiv 2410.22113 describes them (their layers:
`fasttrain.settings.networks`), one model each, NCHW, nothing fused. A seed gives the same weights.
"""

import itertools

from torch import Tensor, nn

HEAD_NORM = 10.0


def convnet(num_classes: int, *, in_channels: int, width: int, side: int) -> nn.Sequential:
    """Four conv-BN-ReLU for images of `side` pixels a side, max-pooled where there is room."""
    widths = [in_channels, width, 2 * width, 4 * width, 8 * width]
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [_conv(inputs, outputs), _norm(outputs), nn.ReLU()]
        if index > 0 and side > 1:
            layers.append(nn.MaxPool2d(2))
            side //= 2
    head = nn.Linear(8 * width, num_classes)
    return nn.Sequential(*layers, nn.MaxPool2d(side), nn.Flatten(), _frozen(head))


def resnet18(num_classes: int, *, in_channels: int, width: int, side: int) -> nn.Sequential:
    """Pre-activation ResNet-18; `side` does not matter to it."""
    layers: list[nn.Module] = [_conv(in_channels, width)]
    inputs = width
    for stage, first_stride in enumerate((1, 2, 2, 2)):
        for stride in (first_stride, 1):
            layers.append(_Block(inputs, width * 2**stage, stride))
            inputs = width * 2**stage
    head = nn.Linear(inputs, num_classes, bias=False)
    tail = [_norm(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), _frozen(head)]
    return nn.Sequential(*layers, *tail)


NETWORKS = {"convnet": convnet, "resnet18": resnet18}


class _Block(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(_norm(inputs), nn.ReLU())
        self.body = nn.Sequential(
            _conv(inputs, outputs, stride=stride),
            _norm(outputs),
            nn.ReLU(),
            _conv(outputs, outputs),
        )
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(_norm(inputs), projection)

    def forward(self, x: Tensor) -> Tensor:
        entered = self.enter(x)
        return self.body(entered) + (x if self.shortcut is None else self.shortcut(entered))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False)


def _frozen(head: nn.Linear) -> nn.Linear:
    head.requires_grad_(False)
    head.weight.mul_(HEAD_NORM / head.weight.norm())
    return head
