"""The images of a setting and its training batches, as they are asked for."""

from pathlib import Path

import torch

from fasttrain_data import DataError, ImageData, Loader, load, open_loader

from ..errors import UsageError
from ..plan.config import Config
from ..settings.losses import LOSSES
from ..settings.networks.kinds import CustomNetwork
from ..store.inputs import one_line_errors
from .building import augmentation


def load_images(dataset: str, root: Path | None) -> ImageData:
    """A data set by name or path.

    Raises:
        UsageError: no such data set, or a file that holds none.
        EnvironmentProblem: it cannot be fetched.
    """
    with one_line_errors():
        return load(dataset, root)


def configured_images(config: Config, root: Path | None) -> ImageData:
    """The images of a configuration: a data set or a part of it.

    Raises:
        UsageError, EnvironmentProblem: as `load_images`; too small for what is asked of it.
    """
    with one_line_errors():
        data = config.data.load(root)
    try:
        data = data.subset(config.data.n_train, config.data.n_test)
    except DataError as error:
        raise UsageError(str(error)) from None
    if data.holds_floats and config.data.flip:
        raise UsageError(f"flip = true: {data.name} holds no images")
    if data.holds_floats and config.data.rand_augment != "none":
        raise UsageError(
            f"rand_augment = {config.data.rand_augment!r}: {data.name} holds no images"
        )
    size = 1 if data.holds_floats else min(data.train_images.shape[1:3])
    if config.data.crop_padding >= size:
        raise UsageError(
            f"crop_padding = {config.data.crop_padding}: images have {size} pixels a side"
        )
    LOSSES[config.training.loss].outputs(data.num_classes)
    batch_size, count = config.training.batch_size, len(data.train_labels)
    batch_norm = config.network.model == "mlp" and config.network.norm == "batch"
    if batch_norm and count % batch_size == 1:
        raise UsageError(
            f"batch_size = {batch_size}: the last batch of {count} images has one image, and"
            " batch normalisation needs two; take another batch_size or n_train"
        )
    return data


def open_passes(
    data: ImageData,
    config: Config,
    seed: int,
    device: torch.device,
    precision: str,
    *,
    augmented: bool = True,
) -> Loader:
    """The training batches of a seed, by passes over the training set."""
    return open_loader(
        data,
        "train",
        batch_size=config.training.batch_size,
        seed=seed,
        augment=augmentation(config.data) if augmented and config.data.augmented else None,
        loader=config.data.loader,
        device=device,
        dtype=batch_dtype(config, device, precision),
    )


def batch_dtype(config: Config, device: torch.device, precision: str) -> torch.dtype:
    """On a GPU what the first operation of our networks takes: it is not cast in every step."""
    ours = not isinstance(config.network, CustomNetwork)
    narrow = device.type == "cuda" and precision == "bf16" and ours
    return torch.bfloat16 if narrow else torch.float32
