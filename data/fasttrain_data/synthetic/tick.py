"""Synthetic "tick" features: 16 of them, any of which tells the two classes apart.

A feature is a point (x1, x2) of the square [-2, 2]^2, and a sample has one of each. The curves
x2 = |x1| and x2 = |x1| - 2, two ticks, bound the classes, at a distance m (arXiv 2410.22113):

    class 0          |x1| - 2 + m <= x2 <= |x1| - m, between them
    class 1          x2 >= |x1| + m or x2 <= |x1| - 2 - m, outside
    uninformative    x2 = |x1| or x2 = |x1| - 2, on one of them by the flip of a coin

Points are uniform in what their class has of the square, by rejection; classes are Bernoulli(1/2).
In the training and the test set every feature is informative, in probe set `feature-07` the seventh
alone. Everything is a function of the seed; the probe sets are the same for all seeds.
"""

import numpy as np
import numpy.typing as npt

from fasttrain_data.catalogue import LARGEST_MARGIN, TICK_MARGIN, TICK_PROBE, TICK_TEST, TICK_TRAIN
from fasttrain_data.errors import DataError
from fasttrain_data.images import ImageData

NUM_FEATURES = 16
MOST_SAMPLES = 1_000_000
_SPLIT, _PROBES = 0, 1  # which generator a seed is for


def tick(
    seed: int = 0,
    *,
    n_train: int = TICK_TRAIN,
    n_test: int = TICK_TEST,
    n_probe: int = TICK_PROBE,
    margin: float = TICK_MARGIN,
) -> ImageData:
    """Return the sets of a seed: float32 samples of shape (16, 2, 1), a row per feature.

    Raises `DataError` for a margin outside 0..0.9, a size outside 1..1,000,000 or a negative seed.
    """
    if not 0 <= margin <= LARGEST_MARGIN:
        raise DataError(f"margin is {margin:g}, it must lie in 0..{LARGEST_MARGIN:g}")
    for key, size in (("n_train", n_train), ("n_test", n_test), ("n_probe", n_probe)):
        if not 1 <= size <= MOST_SAMPLES:
            raise DataError(f"{key} is {size}, it must lie in 1..{MOST_SAMPLES}")
    if seed < 0:
        raise DataError(f"seed is {seed}, it must be 0 or more")
    generator = np.random.default_rng([_SPLIT, seed])
    everything = np.arange(NUM_FEATURES)
    train, test = (_samples(n, everything, margin, generator) for n in (n_train, n_test))
    shared = np.random.default_rng([_PROBES])
    return ImageData(
        name="tick",
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        class_names=("between", "outside"),
        mean=(0.0,),
        std=(1.0,),
        probes={
            f"feature-{feature + 1:02}": _samples(n_probe, everything[[feature]], margin, shared)
            for feature in everything
        },
    )


def _samples(
    count: int, informative: npt.NDArray[np.int64], margin: float, generator: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return samples (count, 16, 2, 1) of which these features tell the class, and the classes."""
    labels = generator.integers(0, 2, count)
    x1 = generator.uniform(-2, 2, (count, NUM_FEATURES))
    x2 = np.abs(x1) - 2 * generator.integers(0, 2, x1.shape)
    points = np.stack([x1, x2], axis=2)
    classes = np.repeat(labels, len(informative))
    found = _points(classes, margin, generator)
    points[:, informative] = found.reshape(count, len(informative), 2)
    return points.astype(np.float32)[..., None], labels


def _points(
    classes: npt.NDArray[np.int64], margin: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return a point of each class: (N, 2)."""
    points = np.empty((len(classes), 2))
    left = np.arange(len(classes))
    while len(left):
        tried = generator.uniform(-2, 2, (len(left), 2))
        height = tried[:, 1] - np.abs(tried[:, 0])
        between = (height >= margin - 2) & (height <= -margin)
        outside = (height >= margin) | (height <= -2 - margin)
        hit = np.where(classes[left] == 0, between, outside)
        points[left[hit]] = tried[hit]
        left = left[~hit]
    return points
