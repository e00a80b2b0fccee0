"""MLP: hidden layers of one width, each linear, batch norm, ReLU, and a linear head.

Linear layers are convolutions of maps of one pixel, the first one as large as the image, so that
packs, groups and the sphere are those of the other networks: a group is a neuron's inputs.
"""

from torch import Tensor, nn

from .head import Head, ImageClassifier, batch_norm, conv


class MLP(ImageClassifier):
    """(B, C, H, W) -> (B, outputs); 99,328 sphere parameters at width 32 on images of 32x32x3.

    In train mode a batch needs two images at least: of one there are no statistics.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        width: int = 32,
        num_layers: int = 2,
        scale_invariant: bool = True,
        eps: float = 1e-5,
        num_models: int = 1,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(in_channels, num_models * width, image_size, bias=False),
                *(conv(width, width, 1, num_models=num_models) for _ in range(num_layers - 1)),
            ]
        )
        self.norms = nn.ModuleList(
            batch_norm(num_models * width, scale_invariant=scale_invariant, eps=eps)
            for _ in self.layers
        )
        self.head = Head(
            width, num_classes, bias=True, frozen=scale_invariant, num_models=num_models
        )

    def features(self, images: Tensor) -> Tensor:
        x = images
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x))
        return x.flatten(1)
