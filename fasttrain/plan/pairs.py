"""What fits what: data, their augmentation, networks and optimisers."""

from typing import TYPE_CHECKING

from ..errors import UsageError
from ..settings.data.named import Named
from ..settings.data.own import CustomData
from ..settings.data.part import OF_RAND_AUGMENT
from ..settings.data.synthetic import PatternPairs
from ..settings.networks.kinds import TwoLayer, ViTSmall
from ..settings.optimizers.kinds import Sphere

if TYPE_CHECKING:
    from .config import Config

TAKE_PAIRS = ("mlp", "two-layer", "custom")
"""networks that take vectors instead of images"""


def check_pairs(config: "Config", origin: str) -> None:
    """Return if data, network and optimiser can be trained together.

    Raises:
        UsageError: in one line, what does not fit.
    """
    _check_augmentation(config, origin)
    pairs, two_layer = isinstance(config.data, PatternPairs), isinstance(config.network, TwoLayer)
    if pairs and config.network.model not in TAKE_PAIRS:
        raise UsageError(
            f"{origin}: network.model = {config.network.model!r}: pattern-pairs are vectors, not"
            f" images; allowed are {', '.join(TAKE_PAIRS)}"
        )
    if pairs and config.data.crop_padding:
        raise UsageError(
            f"{origin}: data.crop_padding = {config.data.crop_padding}: pattern-pairs are"
            " vectors, which augmentation does not take"
        )
    if two_layer and not isinstance(config.data, PatternPairs | CustomData):
        raise UsageError(
            f"{origin}: data.dataset = {config.data.dataset!r}: a two-layer network reads pairs of"
            " vectors; allowed are pattern-pairs and custom"
        )
    if two_layer and config.training.loss != "binary-cross-entropy":
        raise UsageError(
            f"{origin}: training.loss = {config.training.loss!r}: a two-layer network has one"
            " output; allowed is binary-cross-entropy"
        )
    if two_layer and isinstance(config.optimizer, Sphere):
        raise UsageError(
            f"{origin}: optimizer.kind = 'sphere': nothing of a two-layer network is"
            " scale-invariant; allowed are sgd, adam and custom"
        )
    if isinstance(config.network, ViTSmall) and isinstance(config.optimizer, Sphere):
        raise UsageError(
            f"{origin}: optimizer.kind = 'sphere': only the feed-forward layers of vit-small are"
            " scale-invariant; allowed are sgd, adam and custom"
        )


def _check_augmentation(config: "Config", origin: str) -> None:
    """Raise for numbers of a RandAugment that is not there."""
    data, usual = config.data, Named()
    for name in OF_RAND_AUGMENT:
        value = getattr(data, name)
        if data.rand_augment == "none" and value != getattr(usual, name):
            raise UsageError(
                f"{origin}: data.{name} = {value}: applies to RandAugment, and data.rand_augment is"
                " 'none'; allowed are torchvision and absolute"
            )
