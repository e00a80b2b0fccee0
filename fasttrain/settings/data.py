"""The data of a setting, by kind: where images come from, and how they are augmented.

    digits, cifar10, cifar100, fashion-mnist   by name
    npz, folder, hugging-face                  from a path
    noisy-labels                               of another data set, its labels partly at random
    ps10, pattern-pairs                        drawn from a seed
    custom                                     from a function of the user's (`custom`)

`dataset = NAME or PATH` is short for all but the last. Where images lie is no part of identity:
their digest is.
"""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

from fasttrain_data.catalogue import check_bits, check_shares, is_name

from ..errors import UsageError
from .custom import Factory, FromFactory, Options, call, not_one, source_digest
from .fields import CLOSED, Count, Flag, Pixels
from .limits import MOST

if TYPE_CHECKING:
    from fasttrain_data import ImageData

NO_IDENTITY = ("kind", "path", "of", "image_size", "image", "label", "n_train", "n_test", "loader")
"""keys that change no number, or whose effect the digest of the images holds"""


Bits = Annotated[float, Strict(), Field(gt=0)]
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
    loader: Literal["auto", "resident", "ffcv"] = "auto"
    """where batches come from: the device's memory, an FFCV file, or what fits; the same batches"""

    @property
    def dataset(self) -> str:
        """The name or path of the images, or the name of the function that makes them."""
        raise NotImplementedError

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

    def origin(self) -> dict[str, Any]:
        """What finds the images again, besides what is part of identity."""
        where = {name: value for name, value in asdict(self).items() if name in NO_IDENTITY}
        del where["loader"]
        if "path" in where:
            where["path"] = os.path.abspath(where["path"])
        if "of" in where and not is_name(where["of"]):
            where["of"] = os.path.abspath(where["of"])
        return {"dataset": where.get("path", self.dataset), **where}


@dataclass(frozen=True, kw_only=True)
class Named(Data):
    """A data set that fasttrain knows by name."""

    kind: Literal["digits", "cifar10", "cifar100", "fashion-mnist"] = "digits"

    @property
    def dataset(self) -> str:
        return self.kind


@dataclass(frozen=True, kw_only=True)
class _AtPath(Data):
    path: str

    @property
    def dataset(self) -> str:
        return self.path


@dataclass(frozen=True, kw_only=True)
class Npz(_AtPath):
    """An .npz file of arrays."""

    kind: Literal["npz"] = "npz"

    def check(self, root: Path | None) -> None:
        from fasttrain_data.catalogue import existing

        existing(self.path)

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data.sources.npz import load_npz

        self.check(root)
        return load_npz(Path(self.path).expanduser())


@dataclass(frozen=True, kw_only=True)
class Folder(_AtPath):
    """A folder of images: PATH/train/CLASS/*, PATH/test/CLASS/*."""

    kind: Literal["folder"] = "folder"
    image_size: Count | None = None
    """side that all images are brought to: their largest centred square, resized"""

    def check(self, root: Path | None) -> None:
        from fasttrain_data.catalogue import image_folder

        image_folder(self.path)

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data.sources.folder import load_folder

        return load_folder(self.path, self.image_size)


@dataclass(frozen=True, kw_only=True)
class HuggingFace(_AtPath):
    """A directory that `datasets.Dataset.save_to_disk` wrote."""

    kind: Literal["hugging-face"] = "hugging-face"
    image: str | None = None
    """column of the images; the only one of images if not given"""
    label: str | None = None
    """column of the labels; `label`, or the only one of class labels if not given"""
    image_size: Count | None = None
    """side that all images are brought to: their largest centred square, resized"""

    def check(self, root: Path | None) -> None:
        from fasttrain_data.catalogue import saved_dataset

        saved_dataset(self.path)

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data.sources.hugging_face import load_hugging_face

        return load_hugging_face(self.path, self.image, self.label, self.image_size)


@dataclass(frozen=True, kw_only=True)
class NoisyLabels(Data):
    """Another data set of which part of the training labels is drawn at random (1908.01878).

    A reconstruction of the study of memorised noise there. Which labels, and which they become, is
    a function of the seed here, the same for all runs; probe set `mislabelled` has the images whose
    label is wrong, with these labels, and `mislabelled-true` has them with their true ones.
    """

    kind: Literal["noisy-labels"] = "noisy-labels"
    of: str = "digits"
    """the other data set, by name or path"""
    share: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.1
    """share of the training labels that are drawn anew, uniformly from all classes"""
    seed: DataSeed = 0
    """of the labels"""

    @property
    def dataset(self) -> str:
        return self.kind

    def check(self, root: Path | None) -> None:
        from fasttrain_data.catalogue import known

        known(self.of)

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data import load
        from fasttrain_data.labels import with_noisy_labels

        # Subsets are balanced by the true labels.
        data = load(self.of, root).subset(self.n_train, self.n_test)
        return with_noisy_labels(data, self.share, self.seed)


@dataclass(frozen=True, kw_only=True)
class PS10(Data):
    """A simple and a complex pattern side by side, ten classes (`fasttrain_data.ps10`).

    A reconstruction of that of 1908.01878. Probe sets `simple-only` and `complex-only` lack the
    other pattern.
    """

    kind: Literal["ps10"] = "ps10"
    n_train: Count = 2000
    n_test: Count = 1000
    simple_bits: Bits = 0.5
    """entropy of a step of the simple pattern, given the class"""
    complex_bits: Bits = 2.5
    """of the complex one"""
    alone: Annotated[float, Strict(), Field(ge=0, le=0.5)] = 0.2
    """share of the training images with the simple pattern alone, and as many with the complex"""
    seed: DataSeed = 0
    """of the patterns"""

    @property
    def dataset(self) -> str:
        return self.kind

    def check(self, root: Path | None) -> None:
        check_bits(self.simple_bits, self.complex_bits)

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data.ps10 import ps10

        return ps10(
            simple_bits=self.simple_bits,
            complex_bits=self.complex_bits,
            alone=self.alone,
            n_train=self.n_train,
            n_test=self.n_test,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class PatternPairs(Data):
    """P and Q patterns in pairs (`fasttrain_data.pattern_pairs`), for network `two-layer`.

    A reconstruction of the theory setting of 1907.04595. The number of training samples is given,
    or what it is to the dimension: N = d / kappa^2.
    """

    kind: Literal["pattern-pairs"] = "pattern-pairs"
    n_test: Count = 2000
    """of the test set, and of each probe set"""
    d: Annotated[Count, Field(ge=2, le=10_000)] = 100
    """dimension of each pattern"""
    kappa: Annotated[float, Strict(), Field(ge=0.01, le=10)] | None = None
    """sqrt(d / N); 1 if n_train is not given either"""
    radius: Annotated[float, Strict(), Field(gt=0, le=100)] = 0.5
    """distance of the outer points of Q from the middle one"""
    p_share: Annotated[float, Strict(), Field(ge=0, le=1)] = 0.2
    """share of the samples with P alone"""
    q_share: Annotated[float, Strict(), Field(ge=0, le=1)] = 0.2
    """with Q alone; all others have both"""
    seed: DataSeed = 0
    """of the patterns and samples"""

    @property
    def dataset(self) -> str:
        return self.kind

    @property
    def samples(self) -> int:
        """N."""
        return self.n_train or max(1, round(self.d / (self.kappa or 1.0) ** 2))

    def check(self, root: Path | None) -> None:
        if self.kappa is not None and self.n_train is not None:
            raise UsageError(
                f"data.kappa = {self.kappa:g}: and data.n_train = {self.n_train}, which says the"
                " same with d; give one"
            )
        check_shares(self.p_share, self.q_share)

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data.pattern_pairs import pattern_pairs

        return pattern_pairs(
            d=self.d,
            n_train=self.samples,
            n_test=self.n_test,
            radius=self.radius,
            p_share=self.p_share,
            q_share=self.q_share,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class CustomData(FromFactory, Data):
    """`factory(**options)`: an `ImageData`, or a mapping of the arrays that an .npz may hold."""

    kind: Literal["custom"] = "custom"
    factory: Factory
    """package.module:function"""
    options: Options = field(default_factory=dict)
    """what the function is told"""

    @property
    def dataset(self) -> str:
        return self.factory

    @property
    def source(self) -> str:
        """Digest of the factory's source."""
        return source_digest(self.factory, "data.factory")

    def check(self, root: Path | None) -> None:
        """Nothing: a factory may need torch, and is called when images are."""

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data import ImageData
        from fasttrain_data.sources.arrays import images_of

        made = call(self.factory, "data.factory", options=self.options)
        if isinstance(made, ImageData):
            return made
        if not isinstance(made, dict):
            needed = (
                "an ImageData, or a dict of train_images, train_labels, test_images, test_labels"
            )
            raise not_one(made, self.factory, "data.factory", needed)
        name = self.factory.partition(":")[2]
        return images_of(made, name, f"data.factory = {self.factory!r}")


AnyData = Annotated[
    Named | Npz | Folder | HuggingFace | NoisyLabels | PS10 | PatternPairs | CustomData,
    Field(discriminator="kind"),
]
DATA: dict[str, type[Any]] = {
    "digits": Named,
    "cifar10": Named,
    "cifar100": Named,
    "fashion-mnist": Named,
    "npz": Npz,
    "folder": Folder,
    "hugging-face": HuggingFace,
    "noisy-labels": NoisyLabels,
    "ps10": PS10,
    "pattern-pairs": PatternPairs,
    "custom": CustomData,
}
