"""What every loader is: one split of a data set in shuffled, augmented, normalised batches.

Order and augmentation are keyed by (seed, epoch, sample index) and depend on nothing else: not on
the loader, the batch size, `drop_last`, workers or the device.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fasttrain_data.errors import DataError
from fasttrain_data.patches import Patches
from fasttrain_data.rand_augment import RandAugment
from fasttrain_data.randomness import check_key, epoch_order
from fasttrain_kernels.augment.augment import DTYPES, byte_map


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random augmentation of the training split, drawn anew per sample and epoch.

    `flip` mirrors half of the images horizontally. `crop_padding` (pixels, 0 is off) pads every
    side with black and cuts out a window of the original size, like torchvision's `RandomCrop`; the
    crop comes before the flip. `cutout` (pixels, 0 is off; DeVries and Taylor, arXiv 1708.04552)
    then sets a square of that side, centred on a random pixel and clipped at the borders, to 0
    after normalisation. `rand` comes before all of them, on bytes: in both loaders, by plain
    PyTorch on the device of the batches. Raises `DataError` for a negative size.
    """

    flip: bool = False
    crop_padding: int = 0
    cutout: int = 0
    rand: RandAugment | None = None

    def __post_init__(self) -> None:
        for field in ("crop_padding", "cutout"):
            value = getattr(self, field)
            if value < 0:
                raise DataError(f"{field} is {value}, it must be 0 or more pixels")


@dataclass(frozen=True, kw_only=True)
class Split:
    """What a loader knows of the images before it reads them."""

    name: str
    split: str  # "train" or "test"
    shape: tuple[int, int, int, int]  # (N, H, W, C)
    labels: npt.NDArray[np.int64]  # (N,)
    mean: tuple[float, ...]  # (C,)
    std: tuple[float, ...]  # (C,)
    floats: bool = False
    """float32 values, used as they are, instead of bytes of pictures"""
    patches: Patches | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the images as they are held."""
        return int(np.prod(self.shape, dtype=np.int64)) * (4 if self.floats else 1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a loader makes batches; the fields are those of `open_loader`."""

    batch_size: int
    seed: int = 0
    augment: Augment = Augment()
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    drop_last: bool = False

    def check(self, part: Split) -> None:
        """Raise `DataError` for settings that do not fit the split."""
        num_samples, height, width, _ = part.shape
        if self.batch_size < 1:
            raise DataError(f"batch_size is {self.batch_size}, it must be 1 or more")
        if self.drop_last and self.batch_size > num_samples:
            raise DataError(
                f"batch_size {self.batch_size} with drop_last leaves no batch of the"
                f" {num_samples} {part.split} samples of {part.name}"
            )
        if part.split != "train" and self.augment != Augment():
            raise DataError(f"{self.augment} on split {part.split!r}: only 'train' is augmented")
        if part.floats and self.augment != Augment():
            raise DataError(f"{self.augment}: {part.name} holds no images that can be augmented")
        for field in ("crop_padding", "cutout"):
            value = getattr(self.augment, field)
            if value >= min(height, width):
                raise DataError(
                    f"{field} is {value}, images of {part.name} are {height}x{width}:"
                    " it must be smaller than a side"
                )
        if self.dtype not in DTYPES:
            raise DataError(f"dtype is {self.dtype}, allowed are {', '.join(map(str, DTYPES))}")
        check_key(self.seed, 0)


class Loader:
    """Batches of one split; see `open_loader` for the arguments and the guarantees."""

    def __init__(self, part: Split, settings: Settings, reason: str) -> None:
        settings.check(part)
        self.part, self.settings, self.reason = part, settings, reason
        self.num_samples = part.shape[0]
        self.device = settings.device
        self._values = byte_map(
            torch.tensor(part.mean, dtype=torch.float64),
            torch.tensor(part.std, dtype=torch.float64),
            settings.dtype,
        ).to(self.device)
        self._labels = on_device(part.labels, self.device)
        patches = part.patches
        self._patch = None if patches is None else patches.on(self.device, settings.dtype)
        self._owner = os.getpid()

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        full, rest = divmod(self.num_samples, self.settings.batch_size)
        return full if self.settings.drop_last or not rest else full + 1

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, labels) of one epoch; the training order depends on (seed, epoch).

        Images are (B, C, H, W) channels_last of the loader's dtype, labels int64 (B,); both on the
        device, and never overwritten later. The last batch may be short.

        Raises `DataError` for an epoch outside 0..2^32-1, and in a process forked from the one that
        opened the loader.
        """
        check_key(self.settings.seed, epoch)
        if os.getpid() != self._owner:
            raise DataError(
                f"this loader of {self.part.name} was opened by process {self._owner}, of which"
                f" {os.getpid()} is a fork: open it where it is used"
            )
        return self._batches(epoch)

    def explain(self) -> str:
        """Return one line: which loader this is, why, and what it holds."""
        raise NotImplementedError

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        raise NotImplementedError

    def _order(self, epoch: int, device: torch.device) -> Tensor:
        """Return the samples of the epoch in order: int64 (N,)."""
        if self.part.split == "train":
            return epoch_order(self.num_samples, self.settings.seed, epoch, device)
        return torch.arange(self.num_samples, device=device)

    def draws(self, epoch: int) -> dict[str, Any]:
        """Return the key and the settings of the augmentation."""
        augment, patches = self.settings.augment, self.part.patches
        seed = self.settings.seed
        if patches is not None:
            seed, epoch = patches.key(self.part.split, seed, epoch)
        return {
            "seed": seed,
            "epoch": epoch,
            "patch": self._patch,
            "flip": augment.flip,
            "padding": augment.crop_padding,
            "cutout": augment.cutout,
        }


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return the array as a tensor, sharing its memory on a CPU where it can be shared."""
    # torch shares memory with contiguous writeable arrays only; others are copied first.
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)
