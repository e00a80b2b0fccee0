"""Two groups of neurons, each on an input of its own: the network of a theory of learning rates.

    f(x) = w . relu(W x1) + v . relu(V x2)

Groups of m neurons; w and v are fixed, 1/sqrt(m) for the first half of a group and -1/sqrt(m) for
the second one; W and V start from N(0, tau_0^2) and train. A reconstruction of arXiv 1907.04595,
section 3, of which no simulation is public. Nothing is scale-invariant here: W and V are what norms
and angles are told of.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError
from .head import ImageClassifier


class TwoLayer(ImageClassifier):
    """(B, 1, 2, d) -> (B, 1), of a pack (num_models, B, 1); rows of the input are x1 and x2."""

    signs: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],  # of an input: C, H, W
        outputs: int,
        width: int,
        init_std: float,
        *,
        num_models: int = 1,
    ) -> None:
        super().__init__()
        channels, inputs, dimension = shape
        if (channels, inputs, outputs) != (1, 2, 1):
            raise UsageError(
                f"network.model = 'two-layer': takes two vectors a sample, (1, 2, d), and two"
                f" classes; there are {tuple(shape)} and {outputs} outputs"
            )
        self._num_models = num_models
        rows = num_models * width
        self.first = nn.Parameter(init_std * torch.randn(rows, dimension))
        self.second = nn.Parameter(init_std * torch.randn(rows, dimension))
        signs = torch.full((width,), width**-0.5)
        signs[width // 2 :] *= -1
        self.register_buffer("signs", signs, persistent=False)

    @property
    def num_models(self) -> int:
        return self._num_models

    @property
    def num_outputs(self) -> int:
        return 1

    def named_sphere_parameters(self) -> list[tuple[str, Tensor]]:
        """W and V."""
        return [("first", self.first), ("second", self.second)]

    def named_free_parameters(self) -> list[tuple[str, Tensor]]:
        """Nothing else trains."""
        return []

    def forward(self, images: Tensor) -> Tensor:
        groups = zip((self.first, self.second), images[:, 0].unbind(1), strict=True)
        first, second = (F.relu(F.linear(x, weights)) for weights, x in groups)
        # One sign for both: w and v are the same.
        outputs = (first + second).unflatten(1, (self._num_models, -1)) @ self.signs
        return outputs.T[..., None].contiguous() if self._num_models > 1 else outputs
