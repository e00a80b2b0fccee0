"""Counter-based random numbers: every draw is a function of (seed, epoch, sample index, use).

Philox4x32-10 (`fasttrain_kernels.augment.philox`) in integer arithmetic, so that every device and
every backend gives the same words. No state is kept: what a sample draws does not depend on batch
size, position, worker or what was drawn before.

    counter = (index low, index high, epoch, stream)      key = (seed low, seed high)

Words are 32-bit unsigned values held in int64.
"""

from enum import IntEnum

import torch
from torch import Tensor

from fasttrain_data.errors import DataError
from fasttrain_kernels.augment import philox as augment_words
from fasttrain_kernels.augment.philox import MASK, Words, philox, uniform_integers

__all__ = [
    "Stream",
    "check_key",
    "epoch_order",
    "epoch_orders",
    "philox",
    "sample_words",
    "uniform_integers",
]


class Stream(IntEnum):
    """The use of a draw: streams with different numbers are independent.

    The numbers decide what a seed means; never renumber them.
    """

    ORDER = 0
    FLIP = augment_words.FLIP
    CROP_Y = augment_words.CROP_Y
    CROP_X = augment_words.CROP_X
    SPLIT = 4
    CUTOUT = augment_words.CUTOUT
    LABELS = 6
    PATCH_MASK = augment_words.PATCH_MASK
    PATCH = augment_words.PATCH
    RAND_AUGMENT = 9
    """of the first operation; the n-th has 256 n more"""


def sample_words(
    index: Tensor,  # (...) int64, non-negative
    *,
    seed: int,
    epoch: int,
    stream: Stream,
) -> Words:
    """Return four random words for every sample index, each of the shape of `index`.

    Raises `DataError` unless 0 <= seed < 2^64 and 0 <= epoch < 2^32.
    """
    check_key(seed, epoch)
    high = torch.full_like(index, epoch), torch.full_like(index, int(stream))
    return philox((index & MASK, index >> 32, *high), (seed & MASK, seed >> 32))


def check_key(seed: int, epoch: int) -> None:
    """Raise `DataError` unless `seed` and `epoch` fit into the generator's key and counter."""
    if not 0 <= seed < 1 << 64:
        raise DataError(f"seed is {seed}, it must lie in 0..2^64-1")
    if not 0 <= epoch < 1 << 32:
        raise DataError(f"epoch is {epoch}, it must lie in 0..2^32-1")


def epoch_order(
    num_samples: int,
    seed: int,
    epoch: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the order of an epoch: an int64 permutation (num_samples,) on `device`.

    A stable sort of 63 random bits per sample; it depends on the arguments only, not the device.
    Raises `DataError` for a seed or epoch out of range.
    """
    return epoch_orders(num_samples, seed, epoch, 1, device)[0]


def epoch_orders(
    num_samples: int,
    seed: int,
    first: int,
    count: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return those of `count` epochs from `first` on, (count, num_samples), at the cost of few."""
    check_key(seed, first)
    check_key(seed, first + count - 1)
    index = torch.arange(num_samples, device=device)
    epochs = torch.arange(first, first + count, device=device)[:, None]
    stream = torch.full_like(index, int(Stream.ORDER))
    counter = torch.broadcast_tensors(index & MASK, index >> 32, epochs, stream)
    words = philox((counter[0], counter[1], counter[2], counter[3]), (seed & MASK, seed >> 32))
    # 63 bits, for a sign bit would sort wrongly; at 32 bits CIFAR would have ties in most epochs.
    return torch.argsort((words[0] << 31) | (words[1] >> 1), dim=1, stable=True)
