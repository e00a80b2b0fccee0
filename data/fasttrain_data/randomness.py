"""Counter-based random numbers: every draw is a function of (seed, epoch, sample index, use).

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), in integer
arithmetic on torch tensors, so that every device gives the same words. No state is kept: what a
sample draws does not depend on batch size, position, worker or what was drawn before.

    counter = (index low, index high, epoch, stream)      key = (seed low, seed high)

Words are 32-bit unsigned values held in int64.
"""

from enum import IntEnum

import torch
from torch import Tensor

from fasttrain_data.errors import DataError

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
NUM_ROUNDS = 10

Words = tuple[Tensor, Tensor, Tensor, Tensor]


class Stream(IntEnum):
    """The use of a draw: streams with different numbers are independent.

    The numbers decide what a seed means; never renumber them.
    """

    ORDER = 0
    FLIP = 1
    CROP_Y = 2
    CROP_X = 3
    SPLIT = 4


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Return the four output words of Philox4x32-10.

    `counter` is four int64 tensors of one shape with values in [0, 2^32), `key` two such integers.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(NUM_ROUNDS):
        # int64 products wrap modulo 2^64: both 32-bit halves survive in the masked bit pattern.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        high0, high1 = (p0 >> 32) & MASK, (p1 >> 32) & MASK
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, p1 & MASK, high0 ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + KEY_INCREMENTS[0]) & MASK, (k1 + KEY_INCREMENTS[1]) & MASK
    return c0, c1, c2, c3


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


def uniform_integers(
    words: Tensor,  # (...) int64, 32-bit words
    num_values: int,  # 1..2^31
) -> Tensor:
    """Return integers in [0, num_values) by multiply-shift: floor(word * num_values / 2^32).

    Each value has floor or ceil of 2^32 / num_values words, so its probability differs from
    1 / num_values by less than 2^-32.
    """
    return (words * num_values) >> 32


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
    index = torch.arange(num_samples, device=device)
    words = sample_words(index, seed=seed, epoch=epoch, stream=Stream.ORDER)
    # 63 bits, for a sign bit would sort wrongly; at 32 bits CIFAR would have ties in most epochs.
    return torch.argsort((words[0] << 31) | (words[1] >> 1), stable=True)
