"""The grids that are trained on both sides, and their images.

Small enough to wait for, and long enough that accuracies leave chance: that both sides come to
equal results is part of the comparison.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fasttrain.plan.config import Config, GridConfig, TrainingConfig, check
from fasttrain.settings.data.named import Named
from fasttrain.settings.networks.kinds import ConvNet, ResNet18
from fasttrain_data import cache_dir

Cell = tuple[float, float, float]
"""PLR, FLR, final test accuracy"""
CIFAR_FOLDER = "cifar-10-batches-py"
"""where torchvision unpacks CIFAR-10"""
SIZES = (4, 16, 64, 256)
"""cells of the grids whose cost is compared"""


@dataclass(frozen=True)
class Case:
    """A grid; both sides test after every epoch, and nothing is averaged."""

    name: str
    config: Config

    @property
    def network(self) -> ConvNet | ResNet18:
        """A network that both sides have."""
        network = self.config.network
        assert isinstance(network, ConvNet | ResNet18)
        return network

    def epochs(self) -> int:
        """Training epochs of the whole grid."""
        training, grid = self.config.training, self.config.grid
        return len(grid.plr) * (training.epochs + len(grid.flr) * training.finetune_epochs)

    def cells(self) -> int:
        """Cells of the grid."""
        return len(self.config.grid.plr) * len(self.config.grid.flr)


def _cifar(network: ConvNet | ResNet18, n_train: int, epochs: int, finetune: int) -> Config:
    return Config(
        data=Named(kind="cifar10", n_train=n_train, n_test=500),
        network=network,
        training=TrainingConfig(
            epochs=epochs, finetune_epochs=finetune, batch_size=128, precision="auto"
        ),
        grid=GridConfig(plr=(3e-4, 1e-3, 3e-3, 3e-2), flr=(1e-4, 1e-3), k=()),
    )


def _digits(plr: tuple[float, ...], flr: tuple[float, ...], epochs: int, finetune: int) -> Config:
    return Config(
        network=ConvNet(width=8, radius=12.0),
        training=TrainingConfig(
            epochs=epochs, finetune_epochs=finetune, batch_size=64, precision="auto"
        ),
        grid=GridConfig(plr=plr, flr=flr, k=()),
    )


CASES = {
    "digits": Case(
        "digits, ConvNet of width 8",
        _digits((1e-3, 3e-3, 1e-2, 1.5e-2, 2e-2, 4e-2, 1e-1, 3e-1, 1.0), (1e-3, 5e-3), 5, 3),
    ),
    "convnet-8": Case(
        "CIFAR-10, ConvNet of width 8",
        _cifar(ConvNet(width=8, radius=12.0), 3000, 6, 3),
    ),
    "convnet-32": Case(
        "CIFAR-10, ConvNet of width 32",
        _cifar(ConvNet(width=32, radius=12.0), 1500, 4, 2),
    ),
    "resnet18-16": Case(
        "CIFAR-10, ResNet-18 of width 16",
        _cifar(ResNet18(width=16, radius=20.0), 1500, 4, 2),
    ),
}


def grid_of(cells: int) -> Case:
    """A grid of so many cells on digits: 4 fine-tunings of 1 epoch for each pre-training of 2."""
    plr = tuple(float(f"{rate:.6g}") for rate in np.geomspace(1e-3, 1e-1, max(1, cells // 4)))
    return Case(f"{cells} cells", _digits(plr, (1e-3, 2e-3, 5e-3, 1e-2), 2, 1))


def on_disk(data_root: Path | None) -> bool:
    """Whether CIFAR-10 is where `fasttrain data` puts it."""
    return (cache_dir(data_root) / CIFAR_FOLDER).is_dir()


def with_dataset(case: Case, dataset: str) -> Case:
    """The case on other images, of which it takes as many."""
    config = case.config
    data = {"dataset": dataset, "n_train": config.data.n_train, "n_test": config.data.n_test}
    parts = {name: getattr(config, name) for name in ("network", "training", "grid")}
    return replace(case, config=check({"data": data, **parts}, "bench grid"))


def with_precision(case: Case, precision: str) -> Case:
    """The case in an arithmetic; the published loop is fp32 in any."""
    training = replace(case.config.training, precision=precision)  # type: ignore[arg-type]
    return replace(case, config=replace(case.config, training=training))


def generate(path: Path, n_train: int, n_test: int) -> None:
    """Write images of CIFAR's size, of ten classes that can be told apart, not without mistakes."""
    generator = np.random.default_rng(0)
    patterns = generator.normal(0, 1, (10, 8, 8, 3))
    arrays = {}
    for split, count in (("train", n_train), ("test", n_test)):
        labels = np.arange(count) % 10
        coarse = patterns[labels] + 3 * generator.normal(0, 1, (count, 8, 8, 3))
        pixels = 128 + 20 * coarse.repeat(4, axis=1).repeat(4, axis=2)
        arrays[f"{split}_images"] = pixels.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    np.savez(path, allow_pickle=False, **arrays)
