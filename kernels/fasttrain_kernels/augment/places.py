"""The next batch of an epoch whose order lies on the device: gathered, augmented and moved on from.

A CUDA graph repeats launches with the numbers that it was captured with. So the place in the epoch
is read from the device and written there; on a GPU by the kernel that makes the batch.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import augment as module


class Places(NamedTuple):
    """An epoch on the device, and where in it the next batch lies: whoever reads it moves on.

    Of every image of a whole batch the position is kept by itself, and once more for every part
    that is made of the image: so none of them waits for another.
    """

    order: Tensor  # (N,) int64, rows of the epoch
    labels: Tensor  # (N,) int64, of those
    positions: Tensor  # (num_parts(images), size of a whole batch) int64

    def check(self, images: Tensor, size: int) -> None:
        """Refuse what compiled code cannot take for an epoch of these images."""
        parts, count = module.num_parts(images), len(self.order)
        wanted = ((count,), (count,), (parts, *self.positions.shape[-1:]))
        for tensor, shape in zip(self, wanted, strict=True):
            if (tensor.dtype, tuple(tensor.shape), tensor.device) != (
                torch.int64, shape, images.device
            ) or not tensor.is_contiguous():  # fmt: skip
                raise ValueError(
                    f"places are {tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}:"
                    f" contiguous int64 {shape} on {images.device} is needed"
                )
        if not 0 < size <= self.positions.shape[1]:
            raise ValueError(f"a batch of {size}: allowed are 1 to {self.positions.shape[1]}")


def augment_next(
    images: Tensor,  # (N, H, W, C) uint8
    places: Places,
    size: int,
    values: module.ByteMap,
    *,
    patch: module.Patch | None = None,
    seed: int = 0,
    epoch: int = 0,
    key: Tensor | None = None,  # (2,) int64
    flip: bool = False,
    padding: int = 0,
    cutout: int = 0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the next `size` images of an epoch as `augment` makes them, and their labels.

    The place moves on by a whole batch: a smaller one is the last of its epoch. On a GPU all of it
    is one launch, without a number from the host if there is a `key`. What is drawn is `augment`'s.
    What stands on the device is not read here: rows have to be those of images, and positions
    within the epoch, as `fasttrain_data.cursor.Cursor` keeps them.

    Raises:
        ValueError: as `augment`; places of another type, shape, device or layout.
    """
    places.check(images, size)
    draws: dict[str, Any] = {"seed": seed, "epoch": epoch, "key": key, "patch": patch}
    draws |= {"flip": flip, "padding": padding, "cutout": cutout}
    if module._choose(images.device.type, backend) == "triton":
        from . import triton

        module._check(images, places.order, places.order, values, key)
        if patch is not None:
            module._check_patch(patch, images, places.order, places.labels, values)
        out = torch.empty((size, *images.shape[1:]), dtype=values.table.dtype, device=images.device)
        chosen = torch.empty(size, dtype=torch.int64, device=images.device)
        every = (images, places.order, places.order, values, out)
        triton.augment(*every, **draws, labels=places.labels, places=places, chosen=chosen)
        return out.permute(0, 3, 1, 2), chosen
    positions = places.positions[0, :size]
    rows = places.order.index_select(0, positions)
    labels = places.labels.index_select(0, positions)
    found = module.augment(images, rows, values, labels=labels, backend=backend, **draws)
    places.positions.add_(places.positions.shape[1])
    return found, labels
