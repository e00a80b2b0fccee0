"""Pairs of patterns: P and Q are what the setting says, and what is no such setting is refused."""

import numpy as np
import pytest

from fasttrain_data import DataError
from fasttrain_data.synthetic.pattern_pairs import pattern_pairs, unit_directions

SETTING = {"dimension": 20, "kappa": 0.1, "p_share": 0.2, "q_share": 0.3}
SETTING |= {"scale": 3.0, "separation": 0.25}


@pytest.fixture(scope="module")
def data():
    return pattern_pairs(**SETTING, seed=4)


@pytest.fixture(scope="module")
def directions():
    return unit_directions(20, np.random.default_rng([4]))


def patterns(data, split):
    """x1, x2 and y of a set."""
    values, labels = data.split(split)
    assert values.shape[1:] == (2, 20, 1)
    return values[:, 0, :, 0].astype(np.float64), values[:, 1, :, 0].astype(np.float64), labels


def test_there_are_d_over_kappa_squared_samples_of_these_shares(data):
    x1, x2, labels = patterns(data, "train")
    assert len(labels) == 2000
    assert np.bincount(labels).tolist() == [1000, 1000]
    no_p, no_q = (x1 == 0).all(axis=1), (x2 == 0).all(axis=1)
    assert not (no_p & no_q).any()
    # Five standard deviations of a binomial share.
    assert abs(no_q.mean() - 0.2) < 0.045
    assert abs(no_p.mean() - 0.3) < 0.052


def test_probe_sets_hold_one_pattern_or_both(data):
    for name, holds in (
        ("p-only", (True, False)),
        ("q-only", (False, True)),
        ("mixed", (True,) * 2),
    ):
        for pattern, there in zip(patterns(data, name), holds, strict=False):
            assert ((pattern != 0).any(axis=1) == there).all()


def test_p_has_a_margin_along_one_direction_and_noise_in_all(data, directions):
    x1, _, labels = patterns(data, "p-only")
    w = directions[0]
    along = (2 * labels - 1) * (x1 @ w)
    assert along.min() >= 20**-0.5 - 1e-6
    # Half-normal beyond the margin: its mean is sqrt(2 / pi) of the noise's deviation.
    assert along.mean() == pytest.approx((1 + (2 / np.pi) ** 0.5) / 20**0.5, rel=0.05)
    rest = x1 - (x1 @ w)[:, None] * w
    assert (rest**2).sum(axis=1).mean() == pytest.approx(19 / 20, rel=0.05)


def test_q_is_exact_and_no_linear_function_tells_it(data, directions):
    _, x2, labels = patterns(data, "q-only")
    along, across = x2 @ directions[1], x2 @ directions[2]
    plane = along[:, None] * directions[1] + across[:, None] * directions[2]
    np.testing.assert_allclose(x2, plane, atol=1e-6)
    assert along.min() >= 0 and 2.9 < along.max() <= 3.0001
    np.testing.assert_allclose(across[labels == 0], 0, atol=1e-6)
    np.testing.assert_allclose(np.abs(across) / along, 0.25 * labels, rtol=1e-3, atol=1e-3)
    assert abs((across[labels == 1] > 0).mean() - 0.5) < 0.08
    inputs = np.column_stack([x2, np.ones(len(x2))])
    fitted = inputs @ np.linalg.lstsq(inputs, 2 * labels - 1, rcond=None)[0]
    assert ((fitted > 0) == labels).mean() < 0.6


def test_a_seed_has_the_same_data_and_another_seed_others(data):
    assert pattern_pairs(**SETTING, seed=4).digest == data.digest
    assert pattern_pairs(**SETTING, seed=5).digest != data.digest


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dimension": 1}, "dimension is 1, it must be 2 or more"),
        ({"kappa": 0.0}, "kappa is 0, it must be a finite number above 0"),
        ({"kappa": float("nan")}, "kappa is nan"),
        ({"kappa": 1e-300}, "training samples: allowed are 4..1250000"),
        ({"kappa": 5.0}, "training samples: allowed are 4..1250000"),
        ({"p_share": -0.1}, r"p_share is -0.1, it must lie in 0..1"),
        ({"q_share": 1.1}, r"q_share is 1.1, it must lie in 0..1"),
        ({"p_share": 0.6, "q_share": 0.6}, "at most all samples"),
    ],
)
def test_what_lies_outside_its_range_is_refused_by_name(changed, message):
    with pytest.raises(DataError, match=message):
        pattern_pairs(**(SETTING | changed))
