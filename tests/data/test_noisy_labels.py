"""Data with noisy labels: which images are mislabelled, and what they are labelled as."""

import numpy as np
import pytest

from fasttrain_data import DataError, load
from fasttrain_data.labels import with_noisy_labels


def test_the_probe_sets_hold_what_is_mislabelled_and_nothing_else():
    clean = load("digits")
    noisy = with_noisy_labels(clean, 0.1, seed=3)
    changed = noisy.train_labels != clean.train_labels
    images, wrong = noisy.probes["mislabelled"]
    assert np.array_equal(images, clean.train_images[changed])
    assert np.array_equal(wrong, noisy.train_labels[changed])
    again, true = noisy.probes["mislabelled-true"]
    assert np.array_equal(again, images)
    assert np.array_equal(true, clean.train_labels[changed])
    assert (wrong != true).all()
    assert np.array_equal(noisy.test_labels, clean.test_labels)


def test_a_tenth_of_what_is_drawn_anew_stays_what_it_was():
    clean = load("digits")
    share = np.mean(
        [len(with_noisy_labels(clean, 0.5, s).probes["mislabelled"][1]) for s in (1, 2)]
    )
    assert share / len(clean.train_labels) == pytest.approx(0.45, abs=0.03)


def test_a_share_too_small_for_a_single_image_is_refused():
    with pytest.raises(DataError, match="randomising 1e-06 of 1437 labels .* has changed none"):
        with_noisy_labels(load("digits"), 1e-6)
