"""A data set in memory: images, integer labels and the normalisation that goes with them.

Everything downstream (loaders, plans, stores) sees this one form, whatever the source was.
`ImageData.digest` identifies the content: it enters the identity of every stage trained on it.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fasttrain_data.errors import DataError

if TYPE_CHECKING:
    from fasttrain_data.patches import Patches

CHANNELS = (1, 3)
PROBE_NAME = re.compile("[a-z0-9][a-z0-9_-]{0,63}")
"""of a probe set: it becomes part of columns and file names"""


def channel_statistics(images: npt.NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation per channel of pixels scaled to [0, 1].

    `images` is uint8 (N, H, W, C). The sums are exact integers, so that the floats, and with them
    the digest of a data set, are the same on every machine.
    """
    counts = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
    return statistics_of_counts(np.stack(counts))


def statistics_of_counts(
    counts: npt.NDArray[np.int64],  # (C, 256), how often each byte occurs
) -> tuple[list[float], list[float]]:
    """Return what `channel_statistics` does, from histograms."""
    values = range(256)
    means, stds = [], []
    for channel in counts.tolist():
        count = sum(channel)
        total = sum(n * v for n, v in zip(channel, values, strict=True))
        squares = sum(n * v * v for n, v in zip(channel, values, strict=True))
        means.append(total / (255 * count))
        stds.append(math.sqrt((squares * count - total * total) / (255 * count) ** 2))
    return means, stds


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A train and a test set of images with integer labels.

    Images are uint8 (N, H, W, C) with C = 1 or 3; labels int64 (N,) in [0, num_classes). `mean` and
    `std` hold one value per channel for pixels scaled to [0, 1]. The arrays are shared with loaders
    and hashed once: do not write to them.

    Data that are not images are float32 of the same shape, in every set. Networks get these values
    unchanged: mean is 0 and std 1.

    Raises `DataError` at construction for anything else, naming the array and the value.
    """

    name: str
    train_images: npt.NDArray[np.uint8 | np.float32]  # (num_train, H, W, C)
    train_labels: npt.NDArray[np.int64]  # (num_train,)
    test_images: npt.NDArray[np.uint8 | np.float32]  # (num_test, H, W, C)
    test_labels: npt.NDArray[np.int64]  # (num_test,)
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # (C,), of pixels in [0, 1]
    std: tuple[float, ...]  # (C,), of pixels in [0, 1]
    probes: Mapping[str, tuple[npt.NDArray[np.uint8 | np.float32], npt.NDArray[np.int64]]] = field(
        default_factory=dict
    )
    """further evaluation sets by name: images and labels, as of the test set"""
    patches: "Mapping[str, Patches]" = field(default_factory=dict)
    """what loaders add to normalised images, by split"""
    notes: tuple[str, ...] = ()
    """what was converted when the images were read, and how; no part of the digest"""

    def __post_init__(self) -> None:
        if not self.class_names:
            raise DataError(f"{self.name}: class_names is empty, at least one class is needed")
        for split in ("train", "test"):
            self._check_split(split, *self.split(split))
        for name, probe in self.probes.items():
            if not PROBE_NAME.fullmatch(name) or name in ("train", "test"):
                raise DataError(
                    f"{self.name}: probe set {name!r}: a name has small letters, digits, _ and -,"
                    " and is not train or test"
                )
            self._check_split(f"probe_{name}", *probe)
        train = self.train_images.shape[1:]
        others = {"test": self.test_images}
        others |= {f"probe_{name}": images for name, (images, _) in self.probes.items()}
        for split, images in others.items():
            if images.shape[1:] != train:
                raise DataError(
                    f"{self.name}: train_images are {train} (H, W, C) but {split}_images are"
                    f" {images.shape[1:]}"
                )
        for name in self.patches:
            self.split(name)
        self._check_statistics()

    def _check_split(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        pixels = np.float32 if self.holds_floats else np.uint8
        for key, array, dtype, ndim in (
            ("images", images, pixels, 4),
            ("labels", labels, np.int64, 1),
        ):
            where = f"{self.name}: {split}_{key}"
            if not isinstance(array, np.ndarray):
                raise DataError(f"{where} is a {type(array).__name__}, a numpy array is needed")
            if array.dtype != dtype:
                raise DataError(f"{where} is {array.dtype}, {np.dtype(dtype)} is needed")
            if array.ndim != ndim:
                axes = "(N, H, W, C)" if ndim == 4 else "(N,)"
                raise DataError(f"{where} has shape {array.shape}, {axes} is needed")
            if array.size == 0:
                raise DataError(f"{where} is empty: its shape is {array.shape}")
        if images.shape[3] not in CHANNELS:
            raise DataError(
                f"{self.name}: {split}_images has {images.shape[3]} channels"
                f" (shape {images.shape}), 1 or 3 are allowed, on the last axis"
            )
        if len(images) != len(labels):
            raise DataError(
                f"{self.name}: {split} has {len(images)} images but {len(labels)} labels"
            )
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if outside.size:
            raise DataError(
                f"{self.name}: {split}_labels holds {outside[0]},"
                f" labels must lie in 0..{self.num_classes - 1}"
            )

    def _check_statistics(self) -> None:
        channels = self.train_images.shape[3]
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise DataError(
                    f"{self.name}: {key} has {len(values)} values for {channels} channels"
                )
            if not all(math.isfinite(value) for value in values):
                raise DataError(f"{self.name}: {key} is {values}, finite values are needed")
        if min(self.std) <= 0:
            raise DataError(
                f"{self.name}: std is {self.std}, every channel needs a std above 0"
                " (is a channel constant?)"
            )
        if self.holds_floats and (set(self.mean), set(self.std)) != ({0.0}, {1.0}):
            raise DataError(f"{self.name}: float32 values are not normalised: mean is 0 and std 1")

    @property
    def holds_floats(self) -> bool:
        """Whether the values are float32, which networks get unchanged, instead of image bytes."""
        return getattr(self.train_images, "dtype", None) == np.float32

    @property
    def num_classes(self) -> int:
        """Number of classes, with or without samples."""
        return len(self.class_names)

    def split(self, split: str) -> tuple[npt.NDArray[np.uint8 | np.float32], npt.NDArray[np.int64]]:
        """Return (images, labels) of `"train"`, `"test"` or a probe set; else a `DataError`."""
        if split == "train":
            return self.train_images, self.train_labels
        if split == "test":
            return self.test_images, self.test_labels
        if split in self.probes:
            return self.probes[split]
        names = " or ".join(map(repr, ("train", "test", *self.probes)))
        raise DataError(f"split {split!r} of {self.name} does not exist: use {names}")

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all arrays with shapes and dtypes, mean, std and the number of classes.

        Probe sets and patches enter too, where there are any. The name does not: the same content
        has one digest wherever it lies.
        """
        state = hashlib.sha256(f"num_classes={self.num_classes}\n".encode())
        arrays = {
            "train_images": self.train_images,
            "train_labels": self.train_labels,
            "test_images": self.test_images,
            "test_labels": self.test_labels,
            "mean": np.asarray(self.mean, np.float64),
            "std": np.asarray(self.std, np.float64),
        }
        for name in sorted(self.probes):
            images, labels = self.probes[name]
            arrays |= {f"probe_{name}_images": images, f"probe_{name}_labels": labels}
        for key, array in arrays.items():
            state.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
            state.update(np.ascontiguousarray(array).data)
        for name in sorted(self.patches):
            state.update(f"patches of {name}\n".encode())
            for part in self.patches[name].content():
                state.update(part)
        return state.hexdigest()

    def subset(self, n_train: int | None = None, n_test: int | None = None) -> "ImageData":
        """Return a class-balanced subset of `n_train` training and `n_test` test samples.

        Each class gives its first samples in stored order, n // num_classes of them, and one more
        from each of the first n % num_classes classes; the order of the file is kept. None keeps
        the split, and so does its full size. `mean` and `std` stay those of the full set.

        Raises `DataError` for n <= 0, n above the split's size, or a class with too few samples.
        """
        train = self._balanced("train", n_train)
        test = self._balanced("test", n_test)
        return replace(
            self,
            train_images=self.train_images[train],
            train_labels=self.train_labels[train],
            test_images=self.test_images[test],
            test_labels=self.test_labels[test],
        )

    def _balanced(self, split: str, num_samples: int | None) -> slice | npt.NDArray[np.int64]:
        _, labels = self.split(split)
        if num_samples is None or num_samples == len(labels):
            return slice(None)
        key = f"n_{split}"
        if not 0 < num_samples <= len(labels):
            raise DataError(
                f"{key} is {num_samples}, {self.name} allows 1..{len(labels)} {split} samples"
            )
        base, extra = divmod(num_samples, self.num_classes)
        chosen = []
        for label, class_name in enumerate(self.class_names):
            wanted = base + (label < extra)
            found = np.flatnonzero(labels == label)[:wanted]
            if len(found) < wanted:
                raise DataError(
                    f"{key} is {num_samples}: that takes {wanted} {split} samples of class"
                    f" {class_name!r}, but {self.name} has {len(found)}"
                )
            chosen.append(found)
        return np.sort(np.concatenate(chosen))


def as_floats(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Return `values` as the tuple of Python floats that `ImageData` holds."""
    return tuple(float(value) for value in values)
