"""The networks of the studies, in scale-invariant and practical form."""

from collections.abc import Callable

from .convnet import ConvNet
from .head import HEAD_NORM, ImageClassifier, fold, unfold
from .layer_norm_mlp import LayerNormMLP
from .mlp import MLP
from .resnet import ResNet18
from .wide_resnet import WideResNet

MODELS: dict[str, Callable[..., ImageClassifier]] = {
    "convnet": ConvNet,
    "resnet18": ResNet18,
    "wide-resnet": WideResNet,
    "mlp": MLP,
}

__all__ = [
    "HEAD_NORM",
    "MLP",
    "LayerNormMLP",
    "MODELS",
    "ConvNet",
    "ImageClassifier",
    "ResNet18",
    "WideResNet",
    "fold",
    "unfold",
]
