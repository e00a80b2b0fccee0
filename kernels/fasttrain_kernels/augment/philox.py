"""Counter-based random numbers in plain PyTorch: Philox4x32-10, and which draw uses which stream.

Philox of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), in integer
arithmetic, so that every device gives the same words. No state is kept.

    counter = (index low, index high, epoch, stream)      key = (seed low, seed high)

Words are 32-bit unsigned values held in int64. The fused kernels compute the same words.
"""

from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
NUM_ROUNDS = 10

# Streams of the augmentation. The numbers decide what a seed means; never renumber them.
FLIP, CROP_Y, CROP_X, CUTOUT, PATCH_MASK, PATCH = 1, 2, 3, 5, 7, 8

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[int | Tensor, int | Tensor]) -> Words:
    """Return the four output words of Philox4x32-10.

    `counter` is four int64 tensors of one shape with values in [0, 2^32), `key` two such integers,
    numbers or 0-d tensors.
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


def uniform_integers(
    words: Tensor,  # (...) int64, 32-bit words
    num_values: int,  # 1..2^31
) -> Tensor:
    """Return integers in [0, num_values) by multiply-shift: floor(word * num_values / 2^32).

    Each value has floor or ceil of 2^32 / num_values words, so its probability differs from
    1 / num_values by less than 2^-32.
    """
    return (words * num_values) >> 32
