"""Batches of a resident set whose place in the epoch lies on the device.

A CUDA graph repeats what was captured with the numbers that it was captured with. So all that
changes from batch to batch and from epoch to epoch, rows, seed and epoch, is read from tensors that
stay where they are; `begin_` writes them, and every batch moves the place on by itself.
"""

import torch
from torch import Tensor

from fasttrain_data.randomness import check_key
from fasttrain_data.resident import ResidentLoader
from fasttrain_kernels.augment.augment import signed
from fasttrain_kernels.augment.places import Places


class Cursor:
    """The batches of a resident loader's epochs, bit for bit, without a number from the host."""

    def __init__(self, loader: ResidentLoader) -> None:
        self.loader = loader
        count = len(loader.order(0))
        self._size = loader.settings.batch_size
        offsets = torch.arange(min(self._size, count), device=loader.device)
        # Of every image, for each of the programs that make it.
        self._offsets = offsets.expand(loader.num_parts, -1).contiguous()
        self._positions = self._offsets.clone()
        self._order = torch.zeros(count, dtype=torch.int64, device=loader.device)
        self._labels = torch.zeros_like(self._order)
        self._key = torch.zeros(2, dtype=torch.int64, device=loader.device)
        self._places = Places(self._order, self._labels, self._positions)

    def follow(self, loader: ResidentLoader) -> None:
        """Take the batches of another seed of the same set from here on; `begin_` says where."""
        assert loader.labels is self.loader.labels, "a loader of other samples"
        self.loader = loader

    def begin_(self, epoch: int, batch: int = 0) -> None:
        """Make this batch of this epoch the next one."""
        loader = self.loader
        check_key(loader.settings.seed, epoch)
        draws = loader.draws(epoch)
        self._order.copy_(loader.order(epoch))
        torch.index_select(loader.labels, 0, self._order, out=self._labels)
        self._key[0].fill_(signed(draws["seed"]))
        self._key[1].fill_(draws["epoch"])
        torch.add(self._offsets, batch * self._size, out=self._positions)

    def rewind_(self) -> None:
        """Make the first batch of the epoch the next one again."""
        self._positions.copy_(self._offsets)

    def sizes(self) -> list[int]:
        """Images of every batch of an epoch, in order."""
        full, rest = divmod(len(self._order), self._size)
        return [self._size] * full + ([rest] if rest else [])

    def next(self, size: int) -> tuple[Tensor, Tensor]:
        """The next batch, of `size` images, and move on: only operations on the device."""
        if self.loader.is_fused:
            draws = self.loader.draws(0) | {"key": self._key}
            return self.loader.following(self._places, size, **draws)
        positions = self._positions[0, :size]
        rows = self._order.index_select(0, positions)
        labels = self._labels.index_select(0, positions)
        # Of an epoch: seed and number come with the key.
        draws = self.loader.draws(0) | {"key": self._key}
        images = self.loader.made(rows, labels, self.loader.settings.augment.rand, **draws)
        self._positions += size
        return images, labels
