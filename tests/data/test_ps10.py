"""PS10: entropies as asked for, a complexity that counting confirms, probe sets of one pattern."""

import itertools

import numpy as np
import pytest

from fasttrain_data import DataError
from fasttrain_data.synthetic.ps10 import complexity, likeliest, ps10, transitions

SIZES = {"n_train": 200, "n_test": 500}


@pytest.mark.parametrize("bits", [0.05, 0.5, 2.0, 2.9])
def test_every_row_has_the_entropy_asked_for(bits):
    rows = transitions(bits, np.random.default_rng(0))
    assert rows.shape == (10, 8, 8)
    np.testing.assert_allclose(rows.sum(axis=2), 1)
    np.testing.assert_allclose(-(rows * np.log2(rows)).sum(axis=2), bits, atol=1e-6)


def test_the_complexity_is_the_entropy_of_all_patterns_counted():
    # Two symbols, squares of two lines of three: all 64 patterns can be listed.
    matrices = np.array([[[0.9, 0.1], [0.3, 0.7]], [[0.5, 0.5], [0.2, 0.8]]])

    def entropy(matrix):
        chances = [
            0.5 * matrix[a, b] * matrix[b, c] for a, b, c in itertools.product((0, 1), repeat=3)
        ]
        return -sum(p * np.log2(p) for p in chances)

    line = np.mean([entropy(matrix) for matrix in matrices])
    assert complexity(matrices, 3) == pytest.approx(3 * line)


def test_notes_say_the_complexity_and_more_bits_are_more_of_it():
    data = ps10(simple_bits=0.5, complex_bits=2.0, **SIZES)
    # 8 lines of a uniform symbol, 3 bits, and 7 steps.
    assert "of 52.00 bits (0.5 a step)" in data.notes[0]
    assert "of 136.00 bits (2 a step)" in data.notes[1]


def test_a_pattern_alone_tells_the_class_and_a_blank_half_does_not():
    data = ps10(simple_bits=0.5, complex_bits=2.0, **SIZES)
    generator = np.random.default_rng([0])
    simple, harder = transitions(0.5, generator), transitions(2.0, generator)
    images, labels = data.probes["simple-only"]
    assert (likeliest(images[:, :, :8], simple) == labels).mean() > 0.99
    assert (images[:, :, 8:] == 128).all()
    images, labels = data.probes["complex-only"]
    assert (likeliest(images[:, :, 8:], harder) == labels).mean() > 0.95
    assert (images[:, :, :8] == 128).all()
    assert not (data.test_images == 128).any()


def test_a_share_of_the_training_images_has_one_pattern_alone():
    data = ps10(simple_bits=0.5, complex_bits=2.0, alone=0.25, **SIZES)
    blank = data.train_images == 128
    left, right = (blank[:, :, half].all(axis=(1, 2, 3)) for half in (slice(8), slice(8, None)))
    assert left.sum() == right.sum() == 50
    assert not (left & right).any()
    assert set(np.bincount(data.train_labels[left])) == {5}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"simple_bits": 0.0}, "simple_bits is 0"),
        ({"complex_bits": 3.0}, "complex_bits is 3, it must lie between 0 and 3"),
        ({"simple_bits": 2.5}, "simple_bits is 2.5, it must be below complex_bits, 2"),
        ({"alone": 0.6}, "alone is 0.6"),
    ],
)
def test_values_outside_their_range_are_refused_by_name(options, words):
    with pytest.raises(DataError, match=words):
        ps10(**{"simple_bits": 0.5, "complex_bits": 2.0, **SIZES, **options})
