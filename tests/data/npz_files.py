"""Small `.npz` files of a data set, and how a refusal of one reads."""

from pathlib import Path

import numpy as np
import pytest

from fasttrain_data import DataError, load

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
ONE_FILE = {
    "train_images": IMAGES,
    "train_labels": LABELS,
    "test_images": IMAGES[:6],
    "test_labels": LABELS[:6],
}


def save(path: Path, **arrays) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def pair(folder: Path, train: str = "set_train.npz", test: str = "set_test.npz") -> Path:
    save(folder / test, images=IMAGES[:6], labels=LABELS[:6])
    return save(folder / train, images=IMAGES, labels=LABELS, indices=np.arange(12))


def refused(path: Path | str, *parts: str) -> None:
    """Loading fails in one line that holds every part."""
    with pytest.raises(DataError) as caught:
        load(str(path))
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message
