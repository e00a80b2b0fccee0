"""Wide residual network WRN-n-k of arXiv 1605.07146, as arXiv 1907.04595 trains it.

Stem conv3x3 of width w, three groups of (n - 4) / 6 blocks, of widths kw, 2kw, 4kw and first
strides 1, 2, 2. A block computes `out = relu(bn1(x))`, then `conv2(relu(bn2(conv1(out))))` plus x,
or plus a conv1x1 of `out` where the width or the size changes. Then BN, ReLU, the mean over all
pixels (8x8 of them on images of 32x32) and a linear layer with bias. Convs start at
N(0, 2 / (size^2 outputs)). ReLU is part of the normalising modules, each a place for noise.
"""

import math

from torch import Tensor, nn

from .head import Head, ImageClassifier, batch_norm, conv
from .resnet import PreActBlock


class WideResNet(ImageClassifier):
    """WRN-depth-widen; WRN-16-10 has 17,116,634 parameters for 10 classes of colour images."""

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: int = 16,
        depth: int = 16,
        widen: int = 10,
        scale_invariant: bool = True,
        eps: float = 1e-5,
        num_models: int = 1,
    ) -> None:
        super().__init__()
        self.stem = conv(in_channels, width, 3, num_models=num_models, reads_images=True)
        blocks, inputs = [], width
        for group, stride in enumerate((1, 2, 2)):
            outputs = width * widen * 2**group
            for block in range((depth - 4) // 6):
                blocks.append(
                    PreActBlock(
                        inputs,
                        outputs,
                        stride if block == 0 else 1,
                        scale_invariant=scale_invariant,
                        eps=eps,
                        num_models=num_models,
                        norm_shortcut=False,
                    )
                )
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = batch_norm(num_models * inputs, scale_invariant=scale_invariant, eps=eps)
        self.head = Head(
            inputs, num_classes, bias=True, frozen=scale_invariant, num_models=num_models
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                outputs = module.kernel_size[0] ** 2 * module.out_channels // num_models
                nn.init.normal_(module.weight, std=math.sqrt(2 / outputs))

    def features(self, images: Tensor) -> Tensor:
        return self.norm(self.blocks(self.stem(images))).mean(dim=(2, 3))
