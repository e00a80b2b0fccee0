"""The data set that features are transferred to: where it is, and whether it will do."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..settings.custom import is_factory
from ..settings.data.own import CustomData
from ..store.inputs import one_line_errors

if TYPE_CHECKING:
    from fasttrain_data import ImageData


@dataclass(frozen=True)
class Target:
    """A data set, or a class-balanced subset of it, by what finds it."""

    dataset: str
    """name or path, or package.module:function"""
    root: Path | None = None
    n_train: int | None = None
    n_test: int | None = None

    @property
    def images(self) -> "ImageData":
        """Its images and labels.

        Raises:
            UsageError: there is no such data set, or it cannot be classified.
            EnvironmentProblem: it cannot be fetched.
        """
        return _given.get(self) or _images(self)

    def give(self, images: "ImageData") -> None:
        """Let these be its images in this process, wherever it is said to be."""
        _given[self] = images

    def unfit(self, about: Mapping[str, Any]) -> str | None:
        """Why networks cannot be given these images; None if they can.

        Args:
            about: stage.json of one that was trained so.
        """
        shape, own = about.get("image_shape"), [int(n) for n in self.images.train_images.shape[1:]]
        if shape is None:
            return "it was trained by an earlier version, which did not keep the shape of images"
        if own != shape:
            form, needed = (" x ".join(map(str, size)) for size in (own, shape))
            return (
                f"images of {self.images.name} are {form} (H, W, C), the networks were trained on"
                f" {needed}: both must be the same"
            )
        if self.images.holds_floats == about.get("pictures", True):
            kinds = ("images", "float32 vectors")
            own_kind, needed = kinds if not self.images.holds_floats else kinds[::-1]
            return f"{self.images.name} holds {own_kind}, the networks were trained on {needed}"
        return None

    def settings(self) -> dict[str, Any]:
        """What an analysis's identity has of it: the content, and what tables call it."""
        return {"target": self.images.name, "digest": self.images.digest}


_given: dict[Target, "ImageData"] = {}


@functools.cache
def _images(target: Target) -> "ImageData":
    """Once in a process."""
    from fasttrain_data import load

    with one_line_errors():
        if is_factory(target.dataset):
            data = CustomData(factory=target.dataset).load(target.root)
        else:
            data = load(target.dataset, target.root)
        data = data.subset(target.n_train, target.n_test)
    classes = np.unique(data.train_labels)
    if len(classes) < 2:
        raise UsageError(
            f"--target {target.dataset}: all its training images are of class"
            f" {data.class_names[classes[0]]!r}: a classifier needs two classes at least"
        )
    return data
