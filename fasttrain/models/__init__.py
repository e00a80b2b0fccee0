"""The networks of the studies, in scale-invariant and practical form."""

from .convnet import ConvNet
from .head import HEAD_NORM, ImageClassifier, fold, unfold
from .resnet import ResNet18

MODELS: dict[str, type[ConvNet] | type[ResNet18]] = {"convnet": ConvNet, "resnet18": ResNet18}

__all__ = ["HEAD_NORM", "MODELS", "ConvNet", "ImageClassifier", "ResNet18", "fold", "unfold"]
