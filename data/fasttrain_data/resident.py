"""The resident loader: the whole split on the device, augmented and normalised there.

An epoch is a permutation, a batch one fused kernel from bytes to the training precision. Nothing is
read back to the host, so the loader never makes the training loop wait. Float32 values, which are
no pictures, are gathered as they are.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fasttrain_data.batches import Augment, Loader, Settings, Split, on_device
from fasttrain_data.rand_augment import RandAugment
from fasttrain_data.randomness import epoch_orders
from fasttrain_kernels.augment.augment import augment, num_parts
from fasttrain_kernels.augment.places import Places, augment_next


class ResidentLoader(Loader):
    """Batches of one split that lies whole on a device.

    The split is held once, as it is; on a CPU it shares the memory of the array that it came from.
    """

    def __init__(
        self,
        part: Split,
        images: np.ndarray,  # (N, H, W, C) uint8, or float32
        settings: Settings,
        reason: str,
    ) -> None:
        super().__init__(part, settings, reason)
        self._images = on_device(images, self.device)

    def explain(self) -> str:
        """See `Loader.explain`."""
        part, kind = self.part, str(self._images.dtype).removeprefix("torch.")
        size = self._images.nbytes / 2**20
        return (
            f"resident: {part.name} {part.split}, {size:.1f} MiB of {kind} on {self.device};"
            f" {self.reason}"
        )

    def order(self, epoch: int) -> Tensor:
        """Return the rows of `samples` that an epoch consists of, in its order: int64 (N,)."""
        size = self.settings.batch_size
        return self._order(epoch, self.device)[: len(self) * size]

    def orders(self, first: int, count: int) -> Tensor:
        """Return the orders of training epochs from `first` on: int64 (count, N)."""
        assert self.part.split == "train"
        size = len(self) * self.settings.batch_size
        return epoch_orders(self.num_samples, self.settings.seed, first, count, self.device)[
            :, :size
        ]

    @property
    def labels(self) -> Tensor:
        """Of all samples, in stored order, on the device: int64 (N,)."""
        return self._labels

    def variant(self, seed: int, *, augmented: bool = True) -> "ResidentLoader":
        """Return a loader of another seed that shares what lies on the device.

        Args:
            augmented: as this one is, or else not at all.

        Raises:
            DataError: a seed outside 0..2^64-1.
        """
        other = copy.copy(self)
        augment = self.settings.augment if augmented else Augment()
        other.settings = replace(self.settings, seed=seed, augment=augment)
        other.settings.check(self.part)
        return other

    def samples(self) -> tuple[Tensor, Tensor]:
        """Return images as batches hold them without augmentation, and labels, in stored order."""
        rows = torch.arange(self.num_samples, device=self.device)
        return self.made(rows, self._labels), self._labels

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.settings.batch_size
        order = self.order(epoch)
        labels = self._labels.index_select(0, order)
        rand, draws = self.settings.augment.rand, self.draws(epoch)
        for first in range(0, len(order), size):
            batch = slice(first, first + size)
            yield self.made(order[batch], labels[batch], rand, **draws), labels[batch]

    @property
    def num_parts(self) -> int:
        """Programs of a GPU that make one image."""
        return num_parts(self._images)

    @property
    def holds_bytes(self) -> bool:
        """Whether a batch is made from bytes, which is a compiled loop."""
        return self._images.dtype == torch.uint8

    @property
    def is_fused(self) -> bool:
        """Whether a batch is one pass from the bytes of its rows."""
        return self.holds_bytes and self.settings.augment.rand is None

    def following(self, places: Places, size: int, **draws: Any) -> tuple[Tensor, Tensor]:
        """Return the next batch of an epoch, if it `is_fused`, and move on."""
        return augment_next(self._images, places, size, self._values, **draws)

    def made(
        self, rows: Tensor, labels: Tensor, rand: RandAugment | None = None, **draws: Any
    ) -> Tensor:
        """Return the images of rows, (B, C, H, W), augmented by what `rand` and `draws` say."""
        images, samples = self._images, rows
        if images.dtype != torch.uint8:
            values = images.index_select(0, rows).permute(0, 3, 1, 2)
            return values.to(self.settings.dtype)
        if rand is not None:
            images = images.index_select(0, rows)
            by = {name: draws[name] for name in ("seed", "epoch", "key") if name in draws}
            images = rand(images, samples, **by)
            rows = torch.arange(len(rows), device=self.device)
        return augment(images, rows, self._values, samples=samples, labels=labels, **draws)
