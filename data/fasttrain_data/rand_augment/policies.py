"""RandAugment: some operations on each image, drawn uniformly from a policy, one after another.

Two policies, both at a magnitude of 0 to 30, with black where an image has no pixel:

    torchvision   the 14 operations of `torchvision.transforms.RandAugment` (31 bins), on images of
                  Pillow; translations go up to 150 / 331 of a side
    absolute      the 16 of the vision transformers of arXiv 2410.22113: no identity, and with
                  inversion, solarize-add and cut-outs; translations of up to 100 pixels and
                  cut-outs of up to 40, however large the image. At magnitude 14 that is 46.7
                  pixels: of images of 32x32 each translation leaves nothing

An operation and its sign are functions of (seed, epoch, sample index) and of the number of the
operation; translations and turns go either way, and so do the enhancements of torchvision, while
those of `absolute` all have factor 0.1 + 1.8 magnitude / 30. Both policies are the named ones'
operations bit for bit; what is drawn is not what their generators draw.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fasttrain_data.errors import DataError, nearest
from fasttrain_data.randomness import MASK, Stream, philox, uniform_integers

from . import operations as op

LARGEST_MAGNITUDE = 30
STREAMS = 256
"""from one operation's stream of draws to the next one's"""


class Draws(NamedTuple):
    """What is drawn of every image besides the operation, each (B,)."""

    sign: Tensor  # int64, 0 or 1: 1 turns it
    places: tuple[Tensor, Tensor]  # fp64 in [0, 1)


Operation = Callable[[Tensor, Draws], Tensor]


def _moved(plus: op.Matrix, minus: op.Matrix) -> Operation:
    return lambda images, draws: op.moved(images, (plus, minus), draws.sign)


def _sheared(amount: float) -> tuple[Operation, Operation]:
    both = (amount, -amount)
    along_x, along_y = ([(1, v, 0, 0, 1, 0) for v in both], [(1, 0, 0, v, 1, 0) for v in both])
    return _moved(*along_x), _moved(*along_y)


def _translated(across: float, down: float) -> tuple[Operation, Operation]:
    along_x = [(1, 0, v, 0, 1, 0) for v in (across, -across)]
    along_y = [(1, 0, 0, 0, 1, v) for v in (down, -down)]
    return _moved(*along_x), _moved(*along_y)


def _rotated(degrees: float, height: int, width: int) -> Operation:
    return _moved(*(op.rotation(v, height, width) for v in (degrees, -degrees)))


def _enhanced(
    function: Callable[[Tensor, Tensor], Tensor], plus: float, minus: float | None = None
) -> Operation:
    factors = (plus, plus if minus is None else minus)

    def enhanced(images: Tensor, draws: Draws) -> Tensor:
        return function(images, op.constant(factors, torch.float32, images.device)[draws.sign])

    return enhanced


def _torchvision(magnitude: int, height: int, width: int) -> dict[str, Operation]:
    def value(last: float, first: float = 0.0) -> float:
        return float(torch.linspace(first, last, LARGEST_MAGNITUDE + 1)[magnitude])

    shear_x, shear_y = _sheared(value(0.3))
    across, down = (int(value(150.0 / 331.0 * side)) for side in (width, height))
    translate_x, translate_y = _translated(-across, -down)
    factor = value(0.9)
    enhanced = {
        "brightness": op.brightened,
        "color": op.coloured,
        "contrast": op.contrasted,
        "sharpness": op.sharpened,
    }
    bits = 8 - round(magnitude / (LARGEST_MAGNITUDE / 4))
    threshold = value(0.0, 255.0)
    return {
        "identity": lambda images, _: images,
        "shear-x": shear_x,
        "shear-y": shear_y,
        "translate-x": translate_x,
        "translate-y": translate_y,
        "rotate": _rotated(value(30.0), height, width),
        **{n: _enhanced(f, 1.0 + factor, 1.0 - factor) for n, f in enhanced.items()},
        "posterize": lambda images, _: op.posterized(images, bits),
        "solarize": lambda images, _: op.solarized(images, threshold),
        "autocontrast": lambda images, _: op.autocontrasted(images),
        "equalize": lambda images, _: op.equalized(images),
    }


def _absolute(magnitude: int, height: int, width: int) -> dict[str, Operation]:
    share = magnitude / LARGEST_MAGNITUDE
    shear_x, shear_y = _sheared(share * 0.3)
    translate_x, translate_y = _translated(share * 100, share * 100)
    factor = share * 1.8 + 0.1
    bits = max(1, int(share * 4))
    return {
        "autocontrast": lambda images, _: op.autocontrasted(images),
        "equalize": lambda images, _: op.equalized(images),
        "invert": lambda images, _: op.inverted(images),
        "rotate": _rotated(share * 30, height, width),
        "posterize": lambda images, _: op.posterized(images, bits),
        "solarize": lambda images, _: op.solarized(images, share * 256),
        "solarize-add": lambda images, _: op.added(images, share * 110),
        "color": _enhanced(op.coloured, factor),
        "contrast": _enhanced(op.contrasted, factor),
        "brightness": _enhanced(op.brightened, factor),
        "sharpness": _enhanced(op.sharpened, factor),
        "shear-x": shear_x,
        "shear-y": shear_y,
        "cut-out": lambda images, draws: op.cut_out(images, share * 40, draws.places),
        "translate-x": translate_x,
        "translate-y": translate_y,
    }


POLICIES: Mapping[str, Callable[[int, int, int], dict[str, Operation]]] = {
    "torchvision": _torchvision,
    "absolute": _absolute,
}
"""(magnitude, height, width) -> operations by name, in the order of their numbers"""


@functools.cache
def _operations(policy: str, magnitude: int, height: int, width: int) -> list[Operation]:
    return list(POLICIES[policy](magnitude, height, width).values())


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """`num_ops` random operations of a policy on every image, at a magnitude of 0 to 30.

    Raises `DataError` for a policy that is not known, a magnitude outside 0..30, and numbers of
    operations outside 1..10.
    """

    policy: str = "torchvision"
    num_ops: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise DataError(
                f"policy is {self.policy!r}, allowed are {', '.join(POLICIES)}"
                f"{nearest(self.policy, POLICIES)}"
            )
        for field, low, high in (("num_ops", 1, 10), ("magnitude", 0, LARGEST_MAGNITUDE)):
            value = getattr(self, field)
            if not low <= value <= high:
                raise DataError(f"{field} is {value}, it must lie in {low}..{high}")

    def __call__(
        self,
        images: Tensor,  # (B, H, W, C) uint8
        samples: Tensor,  # (B,) int64, what the draws are keyed by
        *,
        seed: int = 0,
        epoch: int = 0,
        key: Tensor | None = None,  # (2,) int64, bits of seed and epoch, in the place of the two
    ) -> Tensor:
        """Return the images augmented, in new memory unless nothing is done to any of them.

        With a `key` the host reads nothing, on whatever device: what stands there is drawn.
        """
        operations = _operations(self.policy, self.magnitude, *images.shape[1:3])
        on_host = images.device.type == "cpu" and key is None
        for number in range(self.num_ops):
            by = (seed, epoch) if key is None else (key[0], key[1])
            chosen, draws = _drawn(samples, *by, number, len(operations))
            images = applied(operations, images, chosen, draws, on_host=on_host)
        return images


def _drawn(
    samples: Tensor, seed: int | Tensor, epoch: int | Tensor, number: int, num_operations: int
) -> tuple[Tensor, Draws]:
    """Return the numbers of the operations, (B,) int64, and what they draw."""
    counter = (
        torch.zeros_like(samples) + epoch,
        torch.full_like(samples, Stream.RAND_AUGMENT + STREAMS * number),
    )
    # As a tensor the seed is signed, of the same bits.
    words = philox((samples & MASK, samples >> 32, *counter), (seed & MASK, seed >> 32 & MASK))
    across, down = (word.double() * 2.0**-32 for word in words[2:])
    return uniform_integers(words[0], num_operations), Draws(words[1] >> 31, (across, down))


def applied(
    operations: list[Operation], images: Tensor, chosen: Tensor, draws: Draws, *, on_host: bool
) -> Tensor:
    """Return the images after the operations chosen for them.

    Which images an operation is for is known on the host or not read back: then every operation is
    computed of all of them, with the same result.
    """
    result = images.clone()
    for number, operation in enumerate(operations):
        hit = chosen == number
        if not on_host:
            result = torch.where(hit[:, None, None, None], operation(images, draws), result)
            continue
        rows = hit.nonzero()[:, 0]
        if len(rows):
            across, down = draws.places
            of_rows = Draws(draws.sign[rows], (across[rows], down[rows]))
            result[rows] = operation(images[rows], of_rows)
    return result
