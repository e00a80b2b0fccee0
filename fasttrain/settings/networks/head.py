"""Parts that every network shares: convolutions, normalisation, the frozen head, packs.

A network is scale-invariant when multiplying its conv weights by a positive factor leaves its
output: what a conv yields goes through a batch normalisation without affine parameters, no conv has
a bias, and the head is rescaled once to Frobenius norm 10 and frozen (arXiv 2410.22113, the
published code). A conv that feeds a batch normalisation directly is invariant by itself; the convs
that add to one residual stream are invariant together. The practical form has affine normalisation
and a trainable head.

A pack of K models is one network: the model axis is folded into the channels, models in order, so
that every conv has K groups (the first one reads the images that all models share), batch
normalisation is per model by construction, and the heads are one batched product. Of a state_dict,
tensor rows r // (R / K) = k belong to model k; `fold` and `unfold` go back and forth.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fasttrain_kernels import NormReLUPool

HEAD_NORM = 10.0


def conv(
    inputs: int,
    outputs: int,
    kernel_size: int,
    *,
    num_models: int,
    stride: int = 1,
    reads_images: bool = False,
    bias: bool = False,
    kind: type[nn.Conv2d] = nn.Conv2d,
) -> nn.Conv2d:
    """Convolution of every model that keeps the size at stride 1."""
    return kind(
        inputs if reads_images else inputs * num_models,
        outputs * num_models,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=1 if reads_images else num_models,
        bias=bias,
    )


def batch_norm(
    channels: int, *, scale_invariant: bool, eps: float, relu: bool = True
) -> NormReLUPool:
    """Batch normalisation, affine only in the practical form, then ReLU if it is asked for."""
    return NormReLUPool(channels, eps=eps, affine=not scale_invariant, relu=relu)


class Head(nn.Linear):
    """Classifiers of a pack: (B, num_models * F) -> (num_models, B, K), of one model (B, K).

    Frozen means: of Frobenius norm `HEAD_NORM` per model, and without gradients.
    """

    def __init__(
        self, features: int, num_classes: int, *, bias: bool, frozen: bool, num_models: int
    ) -> None:
        super().__init__(features, num_models * num_classes, bias=bias)
        self.num_models = num_models
        if frozen:
            with torch.no_grad():
                rows = self.weight.view(num_models, -1)
                rows.mul_(HEAD_NORM / rows.norm(dim=1, keepdim=True))
            self.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        if self.num_models == 1:
            return super().forward(input)
        features = input.unflatten(1, (self.num_models, -1)).transpose(0, 1)
        weights = self.weight.unflatten(0, (self.num_models, -1)).transpose(1, 2)
        if self.bias is None:
            return torch.bmm(features, weights)
        return torch.baddbmm(self.bias.view(self.num_models, 1, -1), features, weights)


class ImageClassifier(nn.Module):
    """A network whose conv weights lie on the sphere, or a pack of them.

    Input (B, C, H, W), output logits (B, K); of a pack (num_models, B, K).
    """

    def named_sphere_parameters(self) -> list[tuple[str, Tensor]]:
        """Names and values of the conv weights, in the order of `named_modules`."""
        return [
            (f"{name}.weight", module.weight)
            for name, module in self.named_modules()
            if isinstance(module, nn.Conv2d)
        ]

    def named_free_parameters(self) -> list[tuple[str, Tensor]]:
        """Names and values of what trains beside them: affine normalisation, biases, and the head.

        None in the scale-invariant form.
        """
        on_sphere = {name for name, _ in self.named_sphere_parameters()}
        return [
            (f"{name}.{own}", parameter)
            for name, module in self.named_modules()
            if isinstance(module, (NormReLUPool, nn.Conv2d, Head))
            for own, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad and f"{name}.{own}" not in on_sphere
        ]

    def sphere_parameters(self) -> list[Tensor]:
        """The conv weights: scale-invariant unless the network was built in its practical form."""
        return [parameter for _, parameter in self.named_sphere_parameters()]

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: (B, C, H, W) -> (B, num_models * 8 * width)."""
        raise NotImplementedError

    head: Head

    @property
    def num_models(self) -> int:
        """Models of the pack; 1 if it is none."""
        return self.head.num_models

    @property
    def num_outputs(self) -> int:
        """Outputs of each model."""
        return self.head.out_features // self.num_models

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def fold(states: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The state_dict of a pack from those of its models."""
    if len(states) == 1:
        return states[0]
    # Counts of batches are the same in all models: they are trained in step.
    return {
        name: torch.cat([state[name] for state in states]) if first.ndim else first
        for name, first in states[0].items()
    }


def unfold(state: Mapping[str, Tensor], num_models: int) -> list[dict[str, Tensor]]:
    """The state_dicts of a pack's models; views, of memory that they do not share."""
    parts = {
        name: value.chunk(num_models) if value.ndim else [value.clone() for _ in range(num_models)]
        for name, value in state.items()
    }
    return [{name: part[index] for name, part in parts.items()} for index in range(num_models)]
