"""Data by name, and from a path."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..fields import Count
from .part import Data

if TYPE_CHECKING:
    from fasttrain_data import ImageData


@dataclass(frozen=True, kw_only=True)
class Named(Data):
    """A data set that fasttrain knows by name."""

    kind: Literal["digits", "cifar10", "cifar100", "fashion-mnist"] = "digits"

    @property
    def dataset(self) -> str:
        return self.kind

    def load_here(self, root: Path | None) -> "ImageData | None":
        from fasttrain_data.sources.named import load_here

        return load_here(self.kind, root)


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

    def load_here(self, root: Path | None) -> "ImageData | None":
        return self.load(root) if Path(self.path).expanduser().is_file() else None


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
