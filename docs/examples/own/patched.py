"""Data of one's own: digits with a patch that gives the class away, and the two probe sets of that.

    fasttrain data inspect patched:patched
    fasttrain sweep patched.toml

A factory returns the arrays that an .npz file may hold. Of the training images a share has a bright
pixel in the first row whose column tells the class: a feature that is easier than the shape. A
network that looks at the patch alone is right on `patch_only` and no better than chance on
`unpatched` where the patch is missing.
"""

import numpy as np

from fasttrain_data import load


def patched(share: float = 0.9, seed: int = 0) -> dict[str, np.ndarray]:
    digits = load("digits")
    chosen = np.random.default_rng(seed).random(len(digits.train_labels)) < share
    train = digits.train_images.copy()
    train[chosen] = with_patch(train[chosen], digits.train_labels[chosen])
    blank = np.zeros_like(digits.test_images)
    return {
        "train_images": train,
        "train_labels": digits.train_labels,
        "test_images": with_patch(digits.test_images, digits.test_labels),
        "test_labels": digits.test_labels,
        "probe_patch_only_images": with_patch(blank, digits.test_labels),
        "probe_patch_only_labels": digits.test_labels,
        "probe_unpatched_images": digits.test_images,
        "probe_unpatched_labels": digits.test_labels,
    }


def with_patch(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Ten classes on the first eight columns of the first row and the last two of the second."""
    marked = images.copy()
    marked[np.arange(len(labels)), labels // 8, np.where(labels < 8, labels, labels - 2)] = 255
    return marked
