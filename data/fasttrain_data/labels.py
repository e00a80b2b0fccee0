"""Other labels for the same images: views for label-noise studies.

A label is a function of (seed, sample index, label), so that a loader of a file and one of memory
agree, and no image is copied.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from fasttrain_data.errors import DataError
from fasttrain_data.images import ImageData
from fasttrain_data.randomness import Stream, check_key, sample_words, uniform_integers

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RandomLabels:
    """Each label is drawn anew, uniformly from all classes, with probability `fraction`.

    With K classes a fraction of 1 / K of the drawn ones keeps its label. Raises `DataError` for a
    fraction outside 0..1 or a seed outside 0..2^64-1.
    """

    fraction: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise DataError(f"fraction is {self.fraction}, it must lie in 0..1")
        check_key(self.seed, 0)

    def apply(self, labels: Labels, num_classes: int) -> Labels:
        """Return the labels (N,) of samples 0..N-1."""
        index = torch.arange(len(labels))
        words = sample_words(index, seed=self.seed, epoch=0, stream=Stream.LABELS)
        drawn = uniform_integers(words[1], num_classes).numpy()
        return np.where(words[0].numpy() < self.fraction * 2.0**32, drawn, labels)


@dataclass(frozen=True, kw_only=True)
class MappedLabels:
    """Label k becomes `classes[k]`. Raises `DataError` when applied to another number of classes.

    New labels must lie in 0..num_classes-1: the head of the network keeps its size.
    """

    classes: tuple[int, ...]

    def apply(self, labels: Labels, num_classes: int) -> Labels:
        """Return the labels (N,) of samples 0..N-1."""
        if len(self.classes) != num_classes:
            raise DataError(f"classes has {len(self.classes)} labels for {num_classes} classes")
        outside = [label for label in self.classes if not 0 <= label < num_classes]
        if outside:
            raise DataError(f"classes holds {outside[0]}, labels must lie in 0..{num_classes - 1}")
        return np.asarray(self.classes, np.int64)[labels]


LabelView = RandomLabels | MappedLabels


def relabelled(data: ImageData, view: LabelView, split: str = "train") -> ImageData:
    """Return the data set with other labels in one split; images are shared, not copied."""
    _, labels = data.split(split)
    changed = view.apply(labels, data.num_classes)
    if split == "train":
        return replace(data, train_labels=changed)
    return replace(data, test_labels=changed)


def with_noisy_labels(data: ImageData, fraction: float, seed: int = 0) -> ImageData:
    """Return the data set with randomised training labels, and what was mislabelled as probe sets.

    `mislabelled` has the training images whose label has changed and these wrong labels, so that
    accuracy on it is the share that is memorised; `mislabelled-true` has their true labels.

    Raises `DataError` for a fraction outside 0..1, a seed out of range, or if no label has changed.
    """
    noisy = relabelled(data, RandomLabels(fraction=fraction, seed=seed))
    wrong = np.flatnonzero(noisy.train_labels != data.train_labels)
    if not wrong.size:
        raise DataError(
            f"{data.name}: randomising {fraction:g} of {len(data.train_labels)} labels with seed"
            f" {seed} has changed none; take a larger share"
        )
    images = data.train_images[wrong]
    probes = {
        "mislabelled": (images, noisy.train_labels[wrong]),
        "mislabelled-true": (images, data.train_labels[wrong]),
    }
    count = f"{len(wrong)} of {len(data.train_labels)}"
    return replace(
        noisy,
        name=f"{data.name} with noisy labels",
        probes={**data.probes, **probes},
        notes=(*data.notes, f"{count} training labels are wrong: {fraction:g} were drawn anew"),
    )
