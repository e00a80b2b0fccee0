"""Networks from a store: plain modules that need neither the store nor the images."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fasttrain_kernels.augment.augment import byte_map

from ..analysis.reopen import configuration
from ..errors import EnvironmentProblem, UsageError, nearest
from ..machine.precision import autocast
from ..settings.losses import LOSSES, Loss
from ..settings.networks.modules import ImageClassifier
from ..store.entries import STATE
from ..store.store import Store
from ..store.tables import Finished
from ..training.progress import Progress
from ..training.workbench import new_network


class Classifier(nn.Module):
    """A trained network with the normalisation of its images, in the precision of its training."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self, network: ImageClassifier, loss: Loss, mean: Any, std: Any, precision: str
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.precision = precision
        moments = torch.tensor([mean, std], dtype=torch.float64)
        values = byte_map(moments[0], moments[1])
        self.register_buffer("scale", values.scale)
        self.register_buffer("shift", values.shift)

    def forward(self, images: Tensor | np.ndarray) -> Tensor:
        """The network's outputs, (N, outputs) fp32.

        Args:
            images: uint8 (N, H, W, C), as a data set holds them, or normalised (N, C, H, W).

        Raises:
            UsageError: images of another type or shape.
        """
        given = torch.as_tensor(images, device=self.scale.device)
        if given.dtype == torch.uint8:
            self._check(given, 3, "uint8 (N, H, W, C)")
            # As loaders round it.
            given = (given * self.scale + self.shift).permute(0, 3, 1, 2)
        else:
            self._check(given, 1, "normalised (N, C, H, W)")
        given = given.contiguous(memory_format=torch.channels_last)
        with autocast(self.precision, given.device):
            return self.network(given).float()

    @torch.no_grad()
    def predict(self, images: Tensor | np.ndarray) -> Tensor:
        """The class of every image, (N,)."""
        return self.loss.classes(self(images)[None])[0]

    def _check(self, images: Tensor, axis: int, wanted: str) -> None:
        channels = len(self.scale)
        if images.ndim != 4 or images.shape[axis] != channels:
            raise UsageError(
                f"images of shape {tuple(images.shape)} and {images.dtype}: expected {wanted}"
                f" with {channels} channels"
            )
        if not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise UsageError(
                f"images are {images.dtype}: expected uint8 (N, H, W, C), or normalised floats"
            )


def load_model(store: str | os.PathLike[str], stage: str) -> Classifier:
    """The trained network of a finished stage, on the CPU, in eval mode.

    Args:
        stage: its id, as in the column `stage` of `Results.stages`.

    Raises:
        UsageError: no such stage, or one without a network.
        EnvironmentProblem: not a store, a damaged file in it, or one without what a model needs.
    """
    opened = Store.open(Path(store).expanduser(), create=False)
    entry = opened.entry(stage) if stage in opened.stages() else None
    if entry is None:
        raise UsageError(
            f"{opened.path}: no finished stage {stage!r}{nearest(str(stage), opened.stages())};"
            " ids are in the column `stage` of the results"
        )
    if STATE not in entry.done["files"]:
        raise UsageError(f"stage {stage} ended {entry.done['state']}: it has no network")
    return _model(Finished(stage, *entry), opened)


def _model(stage: Finished, store: Store) -> Classifier:
    about = stage.about
    progress = Progress.from_tensors(store.read_tensors(stage.stage, STATE))
    lacks = [name for name in ("image_shape", "mean", "std") if about.get(name) is None]
    has_statistics = any(name.endswith("running_mean") for name in progress.model)
    if about["k"] is not None and has_statistics and not progress.statistics:
        lacks.append("batch-normalisation statistics of the average")
    if lacks:
        raise EnvironmentProblem(
            f"{store.path / stage.stage}: lacks {', '.join(lacks)}: it was made by an earlier"
            f" version, and a model needs them; {store.remedy(stage.stage)}"
        )
    config = configuration(stage, store.path, {})
    with torch.random.fork_rng(devices=[]):
        network = new_network(config, about["image_shape"], about["num_classes"])
    network.load_state_dict({**progress.model, **progress.average, **progress.statistics})
    loss, precision = LOSSES[config.training.loss], config.training.precision
    return Classifier(network, loss, about["mean"], about["std"], precision).eval()
