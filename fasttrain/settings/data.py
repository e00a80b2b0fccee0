"""The data of a setting, by kind: where images come from, and how they are augmented.

    digits, cifar10, cifar100, fashion-mnist   by name
    tick                                       drawn from seeds
    npz, folder, hugging-face                  from a path
    pattern-pairs                              drawn from a seed
    custom                                     from a function of the user's (`custom`)

`dataset = NAME or PATH` is short for all but the last. Where images lie is no part of identity:
their digest is.
"""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

from fasttrain_data.catalogue import LARGEST_MARGIN, TICK_MARGIN, TICK_PROBE, TICK_TEST, TICK_TRAIN

from .custom import Factory, FromFactory, Options, call, not_one, source_digest
from .fields import CLOSED, Count, Flag, Pixels
from .limits import MOST

if TYPE_CHECKING:
    from fasttrain_data import ImageData

NO_IDENTITY = ("kind", "path", "image_size", "image", "label", "n_train", "n_test", "loader")
"""keys that change no number, or whose effect the digest of the images holds"""


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
        if "path" in where:
            where["path"] = os.path.abspath(where["path"])
        return {"dataset": where.get("path", self.dataset), **where}


@dataclass(frozen=True, kw_only=True)
class Named(Data):
    """A data set that fasttrain knows by name."""

    kind: Literal["digits", "cifar10", "cifar100", "fashion-mnist"] = "digits"

    @property
    def dataset(self) -> str:
        return self.kind


@dataclass(frozen=True, kw_only=True)
class Tick(Data):
    """Synthetic features (`fasttrain_data.synthetic.tick`): 512 training and 2,000 test samples.

    Several draws are trained on in turn: run n has draw n modulo their number, and what a run draws
    itself, weights and batches, is that of n divided by it, so that both are crossed. The frozen
    head goes with the draw.
    """

    kind: Literal["tick"] = "tick"
    seed: Annotated[int, Strict(), Field(ge=0, le=MOST)] = 0
    """of the first draw; the others have the next ones"""
    draws: Annotated[Count, Field(le=1000)] = 1
    """data sets that the seeds of the study are spread over"""
    n_probe: Annotated[Count, Field(le=1_000_000)] = TICK_PROBE
    """samples of each probe set: one feature is informative"""
    margin: Annotated[float, Strict(), Field(ge=0, le=LARGEST_MARGIN)] = TICK_MARGIN
    """distance of the classes from the curves between them"""

    @property
    def dataset(self) -> str:
        return self.kind

    def load(self, root: Path | None) -> "ImageData":
        return self.draw(0)

    @property
    def num_draws(self) -> int:
        return self.draws

    def draw(self, number: int) -> "ImageData":
        from fasttrain_data.synthetic.tick import tick

        return tick(
            self.seed + number,
            n_train=self.n_train or TICK_TRAIN,
            n_test=self.n_test or TICK_TEST,
            n_probe=self.n_probe,
            margin=self.margin,
        )

    def head_seed(self, draw: int) -> int | None:
        return self.seed + draw


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


Number = Annotated[float, Strict()]
Above0 = Annotated[float, Strict(), Field(gt=0, le=1000)]


@dataclass(frozen=True, kw_only=True)
class PatternPairs(Data):
    """Pairs of an easy, noisy pattern P and a hard, exact one, Q.

    A reconstruction of the theoretical setting of 1907.04595. Probe sets `p-only`, `q-only` and
    `mixed`. Data are drawn from the seed here, the same for all runs.
    """

    kind: Literal["pattern-pairs"] = "pattern-pairs"
    dimension: Count = 100
    """d, of each pattern"""
    kappa: Number = 1.0
    """the number of training samples is d / kappa^2"""
    p_share: Number = 0.2
    """of the samples that have P alone"""
    q_share: Number = 0.2
    """of the samples that have Q alone"""
    scale: Above0 = 10.0
    """largest norm of x2; that of x1 is about 1"""
    separation: Above0 = 0.2
    """distance of the classes of Q, relative to its norm"""
    seed: Annotated[int, Strict(), Field(ge=0, le=MOST)] = 0
    """of the data"""

    @property
    def dataset(self) -> str:
        return self.kind

    def check(self, root: Path | None) -> None:
        from fasttrain_data.catalogue import check_pattern_pairs

        check_pattern_pairs(self.dimension, self.kappa, self.p_share, self.q_share)

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data.synthetic.pattern_pairs import pattern_pairs

        return pattern_pairs(
            dimension=self.dimension,
            kappa=self.kappa,
            p_share=self.p_share,
            q_share=self.q_share,
            scale=self.scale,
            separation=self.separation,
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
    Named | Tick | Npz | Folder | HuggingFace | PatternPairs | CustomData,
    Field(discriminator="kind"),
]
DATA: dict[str, type[Any]] = {
    "digits": Named,
    "cifar10": Named,
    "cifar100": Named,
    "fashion-mnist": Named,
    "tick": Tick,
    "npz": Npz,
    "folder": Folder,
    "hugging-face": HuggingFace,
    "pattern-pairs": PatternPairs,
    "custom": CustomData,
}
