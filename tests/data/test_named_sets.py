"""The embedded digits, sample by sample, and the names of all sets."""

import re

import numpy as np
import pytest

from fasttrain_data import DATASETS, DataError, load

DIGITS_DIGEST = "98c89b47a30241166ca198f9cacfb0125da7bda60fe61b50e7248ee24671bf49"


def test_digits_are_fixed_and_balanced():
    data = load("digits")
    assert data.name == "digits"
    assert data.train_images.shape == (1437, 8, 8, 1)
    assert np.bincount(data.test_labels).tolist() == [36] * 10
    assert np.bincount(data.train_labels).min() >= 138
    assert sorted(np.unique(data.train_images).tolist()) == [(v * 255 + 8) // 16 for v in range(17)]
    assert data.mean[0] == pytest.approx((data.train_images / 255).mean())
    assert data.digest == DIGITS_DIGEST


def test_digits_hold_every_sample_once():
    from sklearn.datasets import load_digits

    data = load("digits")
    together = np.concatenate([data.train_images, data.test_images]).reshape(1797, 64)
    source = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, together)) == sorted(map(bytes, source))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar-10", "; did you mean 'cifar10'?"),
        ("CIFAR100", "; did you mean 'cifar100'?"),
        ("fashion", "; did you mean 'fashion-mnist'?"),
        ("digit", "; did you mean 'digits'?"),
        ("imagenet-21k", ""),
        ("", ""),
    ],
)
def test_unknown_names_are_refused_with_the_list_and_the_nearest(name, hint):
    allowed = ", ".join(DATASETS)
    expected = (
        f"unknown data set {name!r}: use one of {allowed} or the path of an .npz file or of a"
        f" folder of images{hint}"
    )
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        load(name)


def test_the_named_sets():
    assert DATASETS == ("digits", "cifar10", "cifar100", "fashion-mnist", "tick")
