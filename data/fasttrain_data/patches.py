"""Patches that tell the class of an image: memorisable, and no help on images without (1907.04595).

    z ~ N(0, std^2), shared by all classes      v_c ~ U[-bound, bound], one for each class

both of the patch's shape, in normalised space. A fixed share of the examples is patched; at each
access a patched one is, with labels y,

    image + (z ± v_y)       or, with probability `alone`,       zeros + (z ± strength * u * v_y)

with u ~ U[0, 1), by the fused kernel (`Patch` of `fasttrain_kernels.augment.augment`), keyed by
(seed, epoch, sample index). An evaluation set is one draw of it, a function of `seed` alone, where
the published code draws at each access there too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from fasttrain_data.errors import DataError
from fasttrain_data.images import ImageData
from fasttrain_data.randomness import check_key
from fasttrain_kernels.augment.augment import Patch

TRAIN, MIXED, PATCH_ONLY = range(3)
"""parts of which other examples are patched"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Patches:
    """The patches of one split, for an `ImageData`."""

    shared: npt.NDArray[np.float64]  # (P, Q, C), z
    own: npt.NDArray[np.float64]  # (num_classes, P, Q, C), v
    top: int
    left: int
    share: float
    alone: float
    strength: float
    seed: int
    part: int = TRAIN
    blank: bool = False

    def on(self, device: torch.device, dtype: torch.dtype) -> Patch:
        """Return what the kernel takes, for batches of a dtype."""
        wide = torch.promote_types(dtype, torch.float32)
        return Patch(
            torch.from_numpy(self.shared).to(device, wide),
            torch.from_numpy(self.own).to(device, wide),
            top=self.top,
            left=self.left,
            share=self.share,
            alone=self.alone,
            strength=self.strength,
            seed=self.seed,
            part=self.part,
            blank=self.blank,
        )

    def key(self, split: str, seed: int, epoch: int) -> tuple[int, int]:
        """Return seed and epoch of the draws: in training the loader's, else always the same."""
        return (seed, epoch) if split == "train" else (self.seed, self.part)

    def content(self) -> Iterator[bytes]:
        """Yield all that the images depend on."""
        yield f"{self.top} {self.left} {self.share} {self.alone} {self.strength}".encode()
        yield f"{self.seed} {self.part} {self.blank} {self.own.shape}".encode()
        yield self.shared.tobytes()
        yield self.own.tobytes()


def patched(
    data: ImageData,
    *,
    size: int = 7,
    top: int | None = None,
    left: int | None = None,
    share: float = 0.8,
    alone: float = 0.2,
    strength: float = 1.75,
    std: float = 1.25,
    bound: float = 0.1,
    seed: int = 0,
    num_alone: int = 1000,
) -> ImageData:
    """Return the data with `size` x `size` patches on training images, and two more probe sets.

    The test set stays clean. `mixed` is the test set with patches as in training, on others of its
    images; `patch-only` is `num_alone` images of zeros with random labels, all of them patched.
    The patch is in the middle unless `top` and `left` say where.

    Raises `DataError` for a patch that does not lie inside the images, a share outside 0..1 or a
    seed outside 0..2^64-1.
    """
    check_key(seed, 0)
    if data.holds_floats:
        raise DataError(f"{data.name} holds no images that a patch could be put on")
    for name, value in (("share", share), ("alone", alone)):
        if not 0 <= value <= 1:
            raise DataError(f"{name} is {value}, it must lie in 0..1")
    height, width, channels = data.train_images.shape[1:]
    places = []
    for name, given, side in (("top", top, height), ("left", left, width)):
        place = max(0, side - size) // 2 if given is None else given
        if size < 1 or place < 0 or place + size > side:
            raise DataError(
                f"a patch of {size}x{size} pixels at {name} = {place} does not lie inside"
                f" {data.name}, whose images are {height}x{width}: {name} + size must be at most"
                f" {side}"
            )
        places.append(place)
    generator = np.random.default_rng(seed)
    shape = size, size, channels
    patches = Patches(
        shared=std * generator.standard_normal(shape),
        own=generator.uniform(-bound, bound, (data.num_classes, *shape)),
        top=places[0],
        left=places[1],
        share=share,
        alone=alone,
        strength=strength,
        seed=seed,
    )
    zeros = np.zeros((num_alone, *data.train_images.shape[1:]), np.uint8)
    labels = generator.integers(0, data.num_classes, num_alone)
    return replace(
        data,
        name=f"{data.name}-patched",
        probes={
            **data.probes,
            "mixed": (data.test_images, data.test_labels),
            "patch-only": (zeros, labels),
        },
        patches={
            "train": patches,
            "mixed": replace(patches, part=MIXED),
            "patch-only": replace(patches, part=PATCH_ONLY, share=1.0, blank=True),
        },
    )
