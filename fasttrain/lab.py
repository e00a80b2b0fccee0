"""What every stage of a sweep works with: data, device, arithmetic, and how to make a network."""

import functools
from dataclasses import dataclass, field

import torch

from fasttrain_data import Augment, ImageData, Loader, open_loader
from fasttrain_kernels import SphereSGD

from .config import Config
from .evaluate import Score, test_score
from .models import MODELS, ImageClassifier
from .store import Store


@dataclass
class Lab:
    """Data, device and settings; the makers of models, optimisers and loaders."""

    config: Config
    data: ImageData
    store: Store
    device: torch.device
    precision: str
    provenance: dict[str, str | None]
    test_loader: Loader = field(init=False)

    def __post_init__(self) -> None:
        self.test_loader = open_loader(
            self.data, "test", batch_size=self.config.training.batch_size * 4, device=self.device
        )

    def new_model(self, seed: int) -> ImageClassifier:
        """The network as initialised from the seed: the same on every device."""
        network = self.config.network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MODELS[network.model](
                self.data.num_classes,
                in_channels=self.data.train_images.shape[-1],
                width=network.width,
            )
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def new_optimizer(self, model: ImageClassifier, elr: float) -> SphereSGD:
        """The optimiser of all conv weights on one sphere."""
        radius = self.config.network.radius
        return SphereSGD(model.named_sphere_parameters(), elr=elr, radius=radius)

    @functools.cached_property
    def num_filters(self) -> int:
        """Number of conv filters: groups whose norms are tracked."""
        return sum(weight.shape[0] for weight in self.new_model(0).sphere_parameters())

    def train_loader(self, seed: int) -> Loader:
        """The training batches of a seed."""
        data = self.config.data
        augment = Augment(flip=data.flip, crop_padding=data.crop_padding)
        return open_loader(
            self.data,
            "train",
            batch_size=self.config.training.batch_size,
            seed=seed,
            augment=augment if data.flip or data.crop_padding else None,
            loader=data.loader,
            device=self.device,
        )

    def test(self, model: ImageClassifier) -> Score:
        """Score on the test set."""
        return test_score(model, self.test_loader, self.precision, self.device)
