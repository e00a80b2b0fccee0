"""Small data sets and files for the tests of FFCV files."""

import numpy as np

from fasttrain_data import ImageData

NUM_TRAIN, NUM_TEST = 103, 21


def made(channels: int = 3, height: int = 7, width: int = 9, num_train: int = NUM_TRAIN):
    """Odd sizes; labels repeat 0..9."""
    rng = np.random.default_rng(0)
    return ImageData(
        name="made",
        train_images=rng.integers(0, 256, (num_train, height, width, channels), dtype=np.uint8),
        train_labels=np.arange(num_train) % 10,
        test_images=rng.integers(0, 256, (NUM_TEST, height, width, channels), dtype=np.uint8),
        test_labels=np.arange(NUM_TEST) % 10,
        class_names=tuple("abcdefghij"),
        mean=(0.3, 0.4, 0.5)[:channels],
        std=(0.2, 0.25, 0.3)[:channels],
    )
