"""Pre-activation ResNet-18 of arXiv 2410.22113: stem, four stages of two blocks, widths c to 8c.

A block computes `out = relu(bn1(x))`, then `conv2(relu(bn2(conv1(out)))) + shortcut`, the shortcut
being x, or BN then conv1x1 of `out` where the shape changes: the extra BN makes that conv
scale-invariant. ReLU is part of the normalising modules.
"""

from torch import Tensor, nn

from fasttrain_kernels import NormReLUPool

from .head import Head, ImageClassifier, batch_norm, conv


class PreActBlock(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride).

    Args:
        norm_shortcut: whether a shortcut that changes the shape has a BN of its own.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        scale_invariant: bool,
        eps: float,
        num_models: int,
        norm_shortcut: bool = True,
    ) -> None:
        super().__init__()

        def norm(channels: int, *, relu: bool = True) -> NormReLUPool:
            return batch_norm(
                num_models * channels, scale_invariant=scale_invariant, eps=eps, relu=relu
            )

        self.bn1 = norm(inputs)
        self.conv1 = conv(inputs, outputs, 3, num_models=num_models, stride=stride)
        self.bn2 = norm(outputs)
        self.conv2 = conv(outputs, outputs, 3, num_models=num_models)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                *([norm(inputs, relu=False)] if norm_shortcut else []),
                conv(inputs, outputs, 1, num_models=num_models, stride=stride),
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
        num_models: int = 1,
    ) -> None:
        super().__init__()
        self.stem = conv(in_channels, width, 3, num_models=num_models, reads_images=True)
        blocks, inputs = [], width
        for stage, stride in enumerate((1, 2, 2, 2)):
            for block_stride in (stride, 1):
                outputs = width * 2**stage
                blocks.append(
                    PreActBlock(
                        inputs,
                        outputs,
                        block_stride,
                        scale_invariant=scale_invariant,
                        eps=eps,
                        num_models=num_models,
                    )
                )
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = batch_norm(num_models * inputs, scale_invariant=scale_invariant, eps=eps)
        self.head = Head(
            inputs, num_classes, bias=False, frozen=scale_invariant, num_models=num_models
        )

    def features(self, images: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.stem(images)))
        return x.mean(dim=(2, 3))
