"""The classes of the digits in two halves: networks learn one, their features are tried on both.

Of every class 50 images are trained on, and all others test: with more there is little to gain.
"""

from collections.abc import Sequence

import numpy as np

from fasttrain_data import ImageData, load

PER_CLASS = 50


def even() -> ImageData:
    """0, 2, 4, 6, 8: 250 training and 641 test images."""
    return classes_of(load("digits"), range(0, 10, 2), "even digits")


def odd() -> ImageData:
    """1, 3, 5, 7, 9: 250 training and 656 test images."""
    return classes_of(load("digits"), range(1, 10, 2), "odd digits")


def classes_of(data: ImageData, kept: Sequence[int], name: str) -> ImageData:
    """The images of some classes, numbered anew, with the normalisation of all images."""
    images = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    train = np.concatenate([np.flatnonzero(labels == label)[:PER_CLASS] for label in kept])
    test = np.setdiff1d(np.flatnonzero(np.isin(labels, kept)), train)
    return ImageData(
        name=name,
        train_images=images[train],
        train_labels=np.searchsorted(kept, labels[train]),
        test_images=images[test],
        test_labels=np.searchsorted(kept, labels[test]),
        class_names=tuple(data.class_names[label] for label in kept),
        mean=data.mean,
        std=data.std,
    )
