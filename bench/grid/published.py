"""The baseline: the loop of the published code, written from its description, not copied from it.

What the published implementation of arXiv 2410.22113 does, and this does too:

- images normalised one by one in Python (`ToTensor`, `Normalize`) by a `DataLoader` whose workers
  are started anew for every epoch;
- fp32, NCHW, plain modules, eager;
- theta <- rho (theta - eta g) / ||theta - eta g|| as SGD, then a norm per tensor, each read on the
  host, then a loop of rescaling; loss and number correct are read on the host every step too;
- a test pass and a checkpoint file every epoch;
- one cell after another, every fine-tuning from the checkpoint file of its pre-training.

Nothing here is used by the rest of the package.
"""

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from fasttrain.plan.config import Config
from fasttrain.settings.networks.kinds import ConvNet, ResNet18
from fasttrain_data import ImageData

from .cases import Cell
from .networks import NETWORKS


class Images(Dataset[tuple[Tensor, int]]):
    """One split, normalised at every access."""

    def __init__(self, data: ImageData, split: str) -> None:
        self.images, self.labels = data.split(split)
        self.transform = Compose([ToTensor(), Normalize(data.mean, data.std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: Any = self.images[index]
        return self.transform(image), int(self.labels[index])


def sphere_tensors(model: nn.Module) -> list[Tensor]:
    """The conv weights: all that is trained."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]


@torch.no_grad()
def rescale_(tensors: Sequence[Tensor], radius: float) -> None:
    """Put all tensors on the sphere together, with one host read per tensor."""
    squares = sum(float(tensor.norm().item()) ** 2 for tensor in tensors)
    for tensor in tensors:
        tensor.mul_(radius / math.sqrt(squares))


def train_step(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    radius: float,
    images: Tensor,  # (B, C, H, W)
    labels: Tensor,  # (B,)
) -> tuple[float, int]:
    """One step; returns the batch's mean loss and how many it had correct."""
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rescale_(sphere_tensors(model), radius)
    return loss.item(), int((logits.argmax(dim=1) == labels).sum().item())


@torch.no_grad()
def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Fraction of the test set that is correct, in eval mode."""
    model.eval()
    correct = count = 0
    for images, labels in batches:
        correct += int((model(images).argmax(dim=1) == labels).sum().item())
        count += len(labels)
    model.train()
    return correct / count


@dataclass
class PublishedLoop:
    """Trains the cells of a grid, one after another.

    Args:
        folder: where a checkpoint file is written every epoch.
        num_workers: of each DataLoader, started anew for every epoch.
    """

    config: Config
    data: ImageData
    folder: Path
    seed: int
    num_workers: int = max(2, os.cpu_count() or 2)
    start_s: float = 0.0
    """seconds spent so far on waiting for the first batch of every pass"""

    def new_model(self) -> nn.Module:
        """The network as initialised from the seed."""
        network = self.config.network
        channels, side = self.data.train_images.shape[-1], self.data.train_images.shape[1]
        torch.manual_seed(self.seed)
        assert isinstance(network, ConvNet | ResNet18)
        make = NETWORKS[network.model]
        with torch.no_grad():
            model = make(
                self.data.num_classes, in_channels=channels, width=network.width, side=side
            )
        rescale_(sphere_tensors(model), network.radius)
        return model

    def loader(self, split: str) -> DataLoader[tuple[Tensor, int]]:
        """Batches of a split; the training set is shuffled from the seed."""
        size = self.config.training.batch_size
        return DataLoader(
            Images(self.data, split),
            batch_size=size if split == "train" else 4 * size,
            shuffle=split == "train",
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(self.seed),
        )

    def batches(self, loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass, by workers that are started for it."""
        asked = time.perf_counter()
        for index, (images, labels) in enumerate(loader):
            if index == 0:
                self.start_s += time.perf_counter() - asked
            yield images, labels

    def train(self, model: nn.Module, elr: float, epochs: int, name: str) -> tuple[Path, float]:
        """Train at one rate; returns the last checkpoint file and test accuracy."""
        radius = self.config.network.radius
        optimizer = torch.optim.SGD(sphere_tensors(model), lr=elr * radius**2)
        train, test = self.loader("train"), self.loader("test")
        count = len(self.data.train_labels)
        path, accuracy = self.folder, math.nan
        for epoch in range(1, epochs + 1):
            loss_sum = correct = 0.0
            for images, labels in self.batches(train):
                loss, hits = train_step(model, optimizer, radius, images, labels)
                loss_sum, correct = loss_sum + loss * len(labels), correct + hits
            accuracy = score(model, self.batches(test))
            path = self.folder / f"{name}-{epoch}.pt"
            content = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "train_loss": loss_sum / count,
                "train_accuracy": correct / count,
                "test_accuracy": accuracy,
            }
            torch.save(content, path)
        return path, accuracy

    def run(self) -> list[Cell]:
        """Train the grid."""
        training, grid = self.config.training, self.config.grid
        cells = []
        for plr in grid.plr:
            start, _ = self.train(self.new_model(), plr, training.epochs, f"plr-{plr:g}")
            for flr in grid.flr:
                model = self.new_model()
                model.load_state_dict(torch.load(start)["model"])
                name = f"plr-{plr:g}-flr-{flr:g}"
                _, accuracy = self.train(model, flr, training.finetune_epochs, name)
                cells.append((plr, flr, accuracy))
        return cells
