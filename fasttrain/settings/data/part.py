"""What all data of a setting have: subsets, augmentation, the loader.

Where images lie is no part of identity: their digest is.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

from fasttrain_data.catalogue import is_name

from ..fields import CLOSED, Count, Flag, Pixels
from ..limits import MOST

if TYPE_CHECKING:
    from fasttrain_data import ImageData

NO_IDENTITY = (
    *("kind", "path", "base", "image_size", "image", "label"),
    *("n_train", "n_test", "loader"),
)
"""keys that change no number, or whose effect the digest of the images holds"""
OF_RAND_AUGMENT = ("rand_ops", "rand_magnitude")
"""keys that change nothing without it"""

Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Above0 = Annotated[float, Strict(), Field(gt=0, le=1000)]
DataSeed = Annotated[int, Strict(), Field(ge=0, le=MOST)]


@dataclass(frozen=True, kw_only=True)
class Data:
    """What all data have."""

    __pydantic_config__ = CLOSED
    numerics: ClassVar[int] = 1
    n_train: Count | None = None
    """class-balanced subset of the training set; all images if not given"""
    n_test: Count | None = None
    """class-balanced subset of the test set; all images if not given"""
    flip: Flag = False
    """augment by random horizontal flips"""
    crop_padding: Pixels = 0
    """augment by random crops after padding by this many pixels"""
    rand_augment: Literal["none", "torchvision", "absolute"] = "none"
    """augment by RandAugment, before crop and flip: torchvision's operations, or those of the
    published vision transformers (absolute: translations of up to 100 pixels at any image size)"""
    rand_ops: Annotated[int, Strict(), Field(ge=1, le=10)] = 2
    """RandAugment: operations on each image"""
    rand_magnitude: Annotated[int, Strict(), Field(ge=0, le=30)] = 9
    """RandAugment: magnitude of the operations, 0 to 30"""
    loader: Literal["auto", "resident", "ffcv"] = "auto"
    """source of the batches: the device's memory, an FFCV file, or what fits; same batches"""

    @property
    def dataset(self) -> str:
        """The name or path of the images, or the name of the function that makes them."""
        raise NotImplementedError

    @property
    def augmented(self) -> bool:
        """Whether training images are augmented."""
        return self.flip or self.crop_padding > 0 or self.rand_augment != "none"

    def check(self, root: Path | None) -> None:
        """Check what can be without loading anything; `root` is the directory of downloads.

        Raises:
            DataError: there is no such data set.
        """
        from fasttrain_data.catalogue import known

        known(self.dataset)

    def load(self, root: Path | None) -> "ImageData":
        """All images.

        Raises:
            DataError, DataUnavailable, UsageError: there are none, or others than are needed.
        """
        from fasttrain_data import load

        return load(self.dataset, root)

    def load_here(self, root: Path | None) -> "ImageData | None":
        """All images, if they lie in files of arrays on this machine; nothing is fetched or made.

        Raises:
            DataError: a file that holds none.
        """
        return None

    @property
    def num_draws(self) -> int:
        """Draws that the seeds of a study are spread over."""
        return 1

    def draw(self, number: int) -> "ImageData":
        """Another draw of data that are drawn; `load` gives number 0."""
        raise NotImplementedError

    def head_seed(self, draw: int) -> int | None:
        """Seed of the head alone, where it goes with the data."""
        return None

    def origin(self) -> dict[str, Any]:
        """What finds the images again, besides what is part of identity."""
        where = {name: value for name, value in asdict(self).items() if name in NO_IDENTITY}
        del where["loader"]
        for name in ("path", "base"):
            if name in where and not is_name(where[name]):
                where[name] = os.path.abspath(where[name])
        return {"dataset": where.get("path", self.dataset), **where}
