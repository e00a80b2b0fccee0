"""P and Q patterns: their shares, and what makes each of them what it is."""

import numpy as np
import pytest

from fasttrain_data import DataError
from fasttrain_data.pattern_pairs import pattern_pairs

D = 30


def _parts(images, labels):
    return images[:, 0, :, 0], images[:, 1, :, 0], 2 * labels - 1


def test_shares_are_those_asked_for_and_probe_sets_have_one_pattern():
    data = pattern_pairs(d=D, n_train=5000, p_share=0.3, q_share=0.1, seed=1)
    x1, x2, _ = _parts(data.train_images, data.train_labels)
    has = (x1 != 0).any(axis=1), (x2 != 0).any(axis=1)
    assert np.mean(has[0] & ~has[1]) == pytest.approx(0.3, abs=0.02)
    assert np.mean(~has[0] & has[1]) == pytest.approx(0.1, abs=0.02)
    x1, x2, _ = _parts(*data.probes["p-only"])
    assert (x1 != 0).any(axis=1).all() and not x2.any()
    x1, x2, _ = _parts(*data.probes["q-only"])
    assert (x2 != 0).any(axis=1).all() and not x1.any()


def test_p_is_linear_with_a_margin_and_noise_of_norm_one():
    x1, _, y = _parts(*pattern_pairs(d=D, n_train=1, n_test=20_000).probes["p-only"])
    w = (y[:, None] * x1).mean(axis=0)
    w /= np.linalg.norm(w)
    # The mean finds w* up to 1/sqrt(n).
    assert (y * (x1 @ w)).min() > 0.5 / np.sqrt(D)
    across = x1 - np.outer(x1 @ w, w)
    assert np.mean((across**2).sum(axis=1)) == pytest.approx(1 - 1 / D, abs=0.02)


def test_q_has_the_middle_for_one_class_and_no_linear_classifier():
    _, x2, y = _parts(*pattern_pairs(d=D, n_train=1, n_test=4000, radius=0.5).probes["q-only"])
    x2 = x2 / np.linalg.norm(x2, axis=1, keepdims=True)
    middle = x2[y < 0][0]
    np.testing.assert_allclose(x2[y < 0], np.tile(middle, ((y < 0).sum(), 1)), atol=1e-4)
    np.testing.assert_allclose(x2[y > 0] @ middle, 1 / np.sqrt(1.25), atol=1e-4)
    ends = x2[y > 0] - np.outer(x2[y > 0] @ middle, middle)
    sides = ends @ ends[0] > 0
    assert 0.4 < sides.mean() < 0.6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"p_share": 0.7, "q_share": 0.5}, "p_share 0.7 and q_share 0.5"),
        ({"d": 1}, "d is 1"),
        ({"radius": 0.0}, "radius 0"),
    ],
)
def test_values_outside_their_range_are_refused_by_name(options, words):
    with pytest.raises(DataError, match=words):
        pattern_pairs(**{"d": D, "n_train": 10, **options})
