"""A table as images of one row: each feature a pixel, from the least to the largest of training.

    fasttrain sweep tables.toml

Pixels are uint8: features are rounded to 256 levels.
"""

import numpy as np
from sklearn.datasets import load_breast_cancer


def tumours(seed: int = 0) -> dict[str, np.ndarray]:
    features, labels = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    held_out, kept = order[:171], order[171:]
    train, test = features[kept], features[held_out]
    low, high = train.min(axis=0), train.max(axis=0)
    return {
        "train_images": as_rows((train - low) / (high - low)),
        "train_labels": labels[kept],
        "test_images": as_rows((test - low) / (high - low)),
        "test_labels": labels[held_out],
    }


def as_rows(table: np.ndarray) -> np.ndarray:
    """(N, features) in [0, 1] as gray images (N, 1, features) of one row."""
    return table.clip(0, 1)[:, np.newaxis, :]
