"""The resident loader: the whole split on the device as uint8, augmented and normalised there.

An epoch is a permutation, a batch one fused kernel from bytes to the training precision. Nothing is
read back to the host, so the loader never makes the training loop wait.
"""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from fasttrain_data.batches import Loader, Settings, Split, on_device
from fasttrain_kernels.augment.augment import augment


class ResidentLoader(Loader):
    """Batches of one split that lies whole on a device.

    The split is held once as uint8; on a CPU it shares the memory of the array that it came from.
    """

    def __init__(
        self,
        part: Split,
        images: np.ndarray,  # (N, H, W, C) uint8
        settings: Settings,
        reason: str,
    ) -> None:
        super().__init__(part, settings, reason)
        self._images = on_device(images, self.device)

    def explain(self) -> str:
        """See `Loader.explain`."""
        part = self.part
        return (
            f"resident: {part.name} {part.split}, {part.num_bytes / 2**20:.1f} MiB of uint8 on"
            f" {self.device}; {self.reason}"
        )

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.settings.batch_size
        order = self._order(epoch, self.device)[: len(self) * size]
        labels = self._labels.index_select(0, order)
        draws = self._draws(epoch)
        for first in range(0, len(order), size):
            batch = slice(first, first + size)
            images = augment(self._images, order[batch], self._values, **draws)
            yield images, labels[batch]
