"""The network of a configuration, what of it trains, and how its images are augmented."""

from collections.abc import Sequence

from fasttrain_data import Augment, RandAugment

from ..plan.config import Config
from ..settings.data.part import Data
from ..settings.losses import LOSSES
from ..settings.networks.modules import ImageClassifier
from ..settings.optimizers.groups import Trained, trained_parameters
from ..settings.optimizers.kinds import Sphere


def new_network(
    config: Config,
    shape: Sequence[int],  # of an image: H, W, C
    num_classes: int,
    num_models: int = 1,
) -> ImageClassifier:
    """The network of a configuration, or a pack of it, initialised from torch's generator."""
    height, width, channels = map(int, shape)
    return config.network.build(
        (channels, height, width),
        LOSSES[config.training.loss].outputs(num_classes),
        num_models,
        on_sphere=isinstance(config.optimizer, Sphere),
    )


def trained(model: ImageClassifier) -> Trained:
    """What of a pack of networks trains.

    Raises:
        UsageError: a parameter that no optimiser takes.
    """
    on_sphere, free = model.named_sphere_parameters(), model.named_free_parameters()
    return trained_parameters(model, on_sphere, free, model.num_models)


def augmentation(data: Data) -> Augment:
    """What becomes of the training images."""
    rand = None
    if data.rand_augment != "none":
        rand = RandAugment(
            policy=data.rand_augment, num_ops=data.rand_ops, magnitude=data.rand_magnitude
        )
    return Augment(flip=data.flip, crop_padding=data.crop_padding, rand=rand)
