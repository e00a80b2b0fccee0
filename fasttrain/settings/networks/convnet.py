"""ConvNet of arXiv 2410.22113: four conv3x3-BN-ReLU of widths c, 2c, 4c, 8c.

Max-pooling by 2 follows the second, third and fourth conv, and a max-pool over what is left closes:
at 32x32 a 4x4 one, as published. On smaller images a pooling that has nothing to halve is left out.

Of arXiv 2209.03695 are two without BN: with weight norm of fixed filter norms instead, which leaves
every filter scale-invariant, and without any, where convs have biases and nothing is invariant.
"""

import itertools

from torch import Tensor, nn

from .head import Head, ImageClassifier, batch_norm, conv
from .weight_norm import ReLUPool, WeightNormConv


class ConvNet(ImageClassifier):
    """ConvNet, 387,936 sphere parameters in 4 tensors and 480 filters at width 32, 3 channels."""

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: int = 32,
        scale_invariant: bool = True,
        eps: float = 1e-5,
        num_models: int = 1,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        widths = [in_channels, width, 2 * width, 4 * width, 8 * width]
        kinds = {"bias": norm == "none", "kind": WeightNormConv if norm == "weight" else nn.Conv2d}
        self.convs = nn.ModuleList(
            conv(inputs, outputs, 3, num_models=num_models, reads_images=index == 0, **kinds)
            for index, (inputs, outputs) in enumerate(itertools.pairwise(widths))
        )
        self.norms = nn.ModuleList(
            batch_norm(num_models * outputs, scale_invariant=scale_invariant, eps=eps)
            if norm == "batch"
            else ReLUPool()
            for outputs in widths[1:]
        )
        self.head = Head(
            8 * width, num_classes, bias=True, frozen=scale_invariant, num_models=num_models
        )

    def features(self, images: Tensor) -> Tensor:
        x = images
        for index, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = layer(x)
            height, width = x.shape[-2:]
            halved = index > 0 and min(height, width) > 1
            if index < len(self.convs) - 1:
                x = norm(x, 2 if halved else 1)
            else:
                # Two poolings in one: what halving would drop is not seen.
                x = norm(x, (height // 2 * 2, width // 2 * 2) if halved else (height, width))
        return x.flatten(1)
