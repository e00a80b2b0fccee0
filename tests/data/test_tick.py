"""Tick features: where points of each class lie, what seeds share, what is refused."""

import numpy as np
import pytest
import torch

from fasttrain_data import DataError, ImageData, load, open_loader
from fasttrain_data.resident import ResidentLoader
from fasttrain_data.sources.npz import save_npz
from fasttrain_data.synthetic.tick import NUM_FEATURES, tick

MARGIN = 0.1 * np.sqrt(2)
ROUNDING = 1e-6
"""of the coordinates as float32"""


def heights(images):
    """How far the points of samples lie above x2 = |x1|: (N, 16)."""
    points = images[..., 0].astype(np.float64)
    return points[..., 1] - np.abs(points[..., 0])


def lie_in_their_class(heights, labels, margin=MARGIN):
    between = (heights >= margin - 2 - ROUNDING) & (heights <= -margin + ROUNDING)
    outside = (heights >= margin - ROUNDING) | (heights <= -2 - margin + ROUNDING)
    return np.where(labels[:, None] == 0, between, outside)


def test_every_feature_of_training_and_test_set_tells_the_class():
    data = tick(3)
    for split, count in (("train", 512), ("test", 2000)):
        images, labels = data.split(split)
        assert images.shape == (count, NUM_FEATURES, 2, 1) and images.dtype == np.float32
        assert np.abs(images).max() <= 2
        assert lie_in_their_class(heights(images), labels).all()
        assert abs(labels.mean() - 0.5) < 3 * 0.5 / np.sqrt(count)
    # Uniform in what their class has: the whole square is filled, and each class's other half not.
    spread = data.test_images[data.test_labels == 1][..., 0].reshape(-1, 2)
    assert (spread.min(axis=0) < -1.98).all() and (spread.max(axis=0) > 1.98).all()


def test_in_a_probe_set_one_feature_alone_tells_the_class():
    data = tick(0)
    assert sorted(data.probes) == [f"feature-{n:02}" for n in range(1, 17)]
    for number, (images, labels) in enumerate(data.probes[name] for name in sorted(data.probes)):
        assert len(labels) == 1000
        above = heights(images)
        others = np.delete(above, number, axis=1)
        assert lie_in_their_class(above[:, [number]], labels).all()
        # On one of the curves, each as often, whatever the class.
        upper = np.abs(others) < ROUNDING
        assert (upper | (np.abs(others + 2) < ROUNDING)).all()
        for label in (0, 1):
            assert abs(upper[labels == label].mean() - 0.5) < 0.03


def test_seeds_share_the_probe_sets_and_nothing_else():
    first, again, other = tick(1), tick(1), tick(2)
    assert first.digest == again.digest != other.digest
    assert not np.array_equal(first.train_images, other.train_images)
    for name, (images, labels) in first.probes.items():
        assert np.array_equal(images, other.probes[name][0])
        assert np.array_equal(labels, other.probes[name][1])
    assert load("tick").digest == tick(0).digest


def test_the_margin_is_kept():
    data = tick(0, n_train=4000, margin=0.8)
    assert lie_in_their_class(heights(data.train_images), data.train_labels, 0.8).all()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"margin": 1.0}, "margin is 1, it must lie in 0..0.9"),
        ({"margin": -0.1}, "margin is -0.1"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"n_train": 0}, "n_train is 0, it must lie in 1..1000000"),
        ({"n_probe": 10**7}, "n_probe is 10000000"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_drawn_is_named(keys, message):
    with pytest.raises(DataError, match=message):
        tick(**keys)


def test_batches_are_the_values_themselves():
    data = tick(0, n_train=40, n_test=8)
    loader = open_loader(data, batch_size=16, seed=5)
    assert isinstance(loader, ResidentLoader)
    images, labels = loader.samples()
    assert torch.equal(images[:, 0], torch.from_numpy(data.train_images[..., 0]))
    order = loader.order(2)
    assert sorted(order.tolist()) == list(range(40))
    batches = list(loader.epoch(2))
    assert [len(found) for _, found in batches] == [16, 16, 8]
    assert torch.equal(torch.cat([found for found, _ in batches]), images[order])
    assert torch.equal(torch.cat([found for _, found in batches]), labels[order])


def test_samples_of_pictures_are_normalised():
    digits = load("digits").subset(n_train=30, n_test=10)
    loader = open_loader(digits, batch_size=8, seed=1)
    assert isinstance(loader, ResidentLoader)
    images, labels = loader.samples()
    batches = list(loader.epoch(0))
    assert torch.equal(torch.cat([found for found, _ in batches]), images[loader.order(0)])
    assert torch.equal(torch.cat([found for _, found in batches]), labels[loader.order(0)])


def test_what_needs_pictures_is_refused(tmp_path):
    from fasttrain_data import Augment

    data = tick(0, n_train=20, n_test=8)
    with pytest.raises(DataError, match="no images"):
        open_loader(data, batch_size=4, augment=Augment(flip=True))
    with pytest.raises(DataError, match="no images"):
        open_loader(data, batch_size=4, loader="ffcv")
    with pytest.raises(DataError, match="pictures alone"):
        save_npz(data, tmp_path / "tick.npz")
    assert not (tmp_path / "tick.npz").exists()


def test_floats_are_not_normalised_nor_mixed_with_bytes():
    keys = {
        "name": "own",
        "train_images": np.zeros((4, 2, 2, 1), np.float32),
        "train_labels": np.zeros(4, np.int64),
        "test_images": np.zeros((4, 2, 2, 1), np.float32),
        "test_labels": np.zeros(4, np.int64),
        "class_names": ("a",),
        "mean": (0.0,),
        "std": (1.0,),
    }
    assert ImageData(**keys).holds_floats
    with pytest.raises(DataError, match="mean is 0 and std 1"):
        ImageData(**{**keys, "mean": (0.5,)})
    with pytest.raises(DataError, match="test_images is uint8, float32 is needed"):
        ImageData(**{**keys, "test_images": np.zeros((4, 2, 2, 1), np.uint8)})
