"""Pre-activation ResNet-18 of arXiv 2410.22113: stem, four stages of two blocks, widths c to 8c.

A block computes `out = relu(bn1(x))`, then `conv2(relu(bn2(conv1(out)))) + shortcut`, the shortcut
being x, or BN then conv1x1 of `out` where the shape changes: the extra BN makes that conv
scale-invariant. ReLU is part of the normalising modules.
"""

from torch import Tensor, nn

from .head import ImageClassifier, batch_norm, linear_head


class PreActBlock(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, *, scale_invariant: bool, eps: float
    ) -> None:
        super().__init__()
        self.bn1 = batch_norm(inputs, scale_invariant=scale_invariant, eps=eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = batch_norm(outputs, scale_invariant=scale_invariant, eps=eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                batch_norm(inputs, scale_invariant=scale_invariant, eps=eps, relu=False),
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(x)
        shortcut = x if self.downsample is None else self.downsample(out)
        out = self.conv2(self.bn2(self.conv1(out)))
        return out + shortcut


class ResNet18(ImageClassifier):
    """ResNet-18, 2,790,240 sphere parameters in 20 tensors and 2,400 filters at width 32."""

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: int = 32,
        scale_invariant: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        blocks, inputs = [], width
        for stage, stride in enumerate((1, 2, 2, 2)):
            for block_stride in (stride, 1):
                outputs = width * 2**stage
                blocks.append(
                    PreActBlock(
                        inputs, outputs, block_stride, scale_invariant=scale_invariant, eps=eps
                    )
                )
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = batch_norm(inputs, scale_invariant=scale_invariant, eps=eps)
        self.head = linear_head(inputs, num_classes, bias=False, frozen=scale_invariant)

    def features(self, images: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.stem(images)))
        return x.mean(dim=(2, 3))
