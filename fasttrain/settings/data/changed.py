"""Images of other data sets, changed: labels at random, memorisable patches."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, Strict

from ..fields import Count, Pixels
from .part import Data, DataSeed, Share

if TYPE_CHECKING:
    from fasttrain_data import ImageData

Size = Annotated[float, Strict(), Field(ge=0, le=1e3)]
PATCHED_MEAN_STD = {"cifar10": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))}
"""normalisation of arXiv 1907.04595, in bytes, where it is not the data set's own"""


@dataclass(frozen=True, kw_only=True)
class OnBase(Data):
    """A data set, or a subset of it, with changes."""

    base: str = "digits"
    """the data set, by name or path"""

    @property
    def dataset(self) -> str:
        return self.base

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data import load

        # Subsets are balanced by the true labels.
        return self.changed(load(self.base, root).subset(self.n_train, self.n_test))

    def load_here(self, root: Path | None) -> "ImageData | None":
        from fasttrain_data.sources.named import load_here

        data = load_here(self.base, root)
        return data and self.changed(data.subset(self.n_train, self.n_test))

    def changed(self, data: "ImageData") -> "ImageData":
        """What is trained on."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NoisyLabels(OnBase):
    """Another data set of which part of the training labels is drawn at random (1908.01878).

    A reconstruction of the study of memorised noise there. Which labels, and which they become, is
    a function of the seed here, the same for all runs; probe set `mislabelled` has the images whose
    label is wrong, with these labels; `mislabelled-true` has the same images with true labels.
    """

    kind: Literal["noisy-labels"] = "noisy-labels"
    share: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.1
    """share of the training labels that are drawn anew, uniformly from all classes"""
    seed: DataSeed = 0
    """seed of the wrong labels"""

    def changed(self, data: "ImageData") -> "ImageData":
        from fasttrain_data.labels import with_noisy_labels

        return with_noisy_labels(data, self.share, self.seed)


@dataclass(frozen=True, kw_only=True)
class Patched(OnBase):
    """Images with patches that tell the class (arXiv 1907.04595); probe sets mixed, patch-only."""

    kind: Literal["patched"] = "patched"
    patch_size: Count = 7
    """side of the patch, in pixels"""
    patch_top: Pixels | None = None
    """first row of the patch; in the middle if not given"""
    patch_left: Pixels | None = None
    """first column of the patch; in the middle if not given"""
    patched: Share = 0.8
    """share of the images with a patch, the same images in every epoch"""
    alone: Share = 0.2
    """share of these that show the patch alone, on zeros; drawn anew at each access"""
    strength: Size = 1.75
    """largest factor of the patch's class signal where it stands alone"""
    shared_std: Size = 1.25
    """standard deviation of the part that all patches share, in normalised pixels"""
    class_bound: Size = 0.1
    """bound of the class signal, in normalised pixels"""
    patch_seed: DataSeed = 0
    """seed of the patches, and of the choice of images that get one"""

    def changed(self, data: "ImageData") -> "ImageData":
        from fasttrain_data import patched

        if self.base in PATCHED_MEAN_STD:
            mean, std = (tuple(v / 255 for v in row) for row in PATCHED_MEAN_STD[self.base])
            data = replace(data, mean=mean, std=std)
        return patched(
            data,
            size=self.patch_size,
            top=self.patch_top,
            left=self.patch_left,
            share=self.patched,
            alone=self.alone,
            strength=self.strength,
            std=self.shared_std,
            bound=self.class_bound,
            seed=self.patch_seed,
        )
