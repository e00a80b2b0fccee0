"""A user's network as the others are seen: which parameters lie on the sphere, and one output."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from .head import ImageClassifier


class OwnNetwork(ImageClassifier):
    """Any module from images (B, C, H, W) to (B, outputs), trained alone.

    Parameters and states have the names that they have in the module.

    Args:
        sphere: names of the parameters on the sphere; all others that train are free.
    """

    def __init__(self, net: nn.Module, outputs: int, sphere: Sequence[str]) -> None:
        super().__init__()
        self.net = net
        self.outputs = outputs
        self.sphere = tuple(sphere)

    @property
    def num_models(self) -> int:
        return 1

    @property
    def num_outputs(self) -> int:
        return self.outputs

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the module."""
        return self.net.named_parameters(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the module."""
        return self.net.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of the module."""
        return self.net.load_state_dict(*args, **kwargs)

    def named_sphere_parameters(self) -> list[tuple[str, Tensor]]:
        """Those that were named, in the module's order."""
        return [(name, p) for name, p in self.net.named_parameters() if name in self.sphere]

    def named_free_parameters(self) -> list[tuple[str, Tensor]]:
        """All others that train."""
        return [
            (name, p)
            for name, p in self.net.named_parameters()
            if p.requires_grad and name not in self.sphere
        ]

    def features(self, images: Tensor) -> Tensor:
        """What the module's own method of that name gives, (B, features)."""
        return self.net.features(images).flatten(1)  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).contiguous()
