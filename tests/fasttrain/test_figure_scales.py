"""Axes and words of figures that depend on the values drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from fasttrain.report.figures.sharpness import _correlation
from fasttrain.report.figures.style import accuracy_axis


def _heights(accuracies: list[float]) -> np.ndarray:
    """Where accuracies in % stand on their axis, from 0 to 1."""
    ax = Figure().add_subplot()
    ax.plot(range(len(accuracies)), accuracies)
    accuracy_axis(ax, accuracies)
    places = [ax.transData.transform((0, accuracy)) for accuracy in accuracies]
    heights = ax.transAxes.inverted().transform(places)[:, 1]
    assert ax.get_ylim()[0] >= 0
    return heights


def test_accuracies_near_all_are_told_apart():
    heights = _heights([10.0, 60.0, 99.17, 99.72, 100.0])
    assert (np.diff(heights) > 0.08).all() and 0 <= heights[0] and heights[-1] == pytest.approx(1)
    # Equal ratios of the error are equal heights, but for the 0.05 % that no error counts as.
    low, mid, high = _heights([90.0, 96.0, 98.4])
    assert high - mid == pytest.approx(mid - low, rel=0.02)


def test_other_accuracies_keep_a_linear_axis():
    heights = _heights([20.0, 50.0, 80.0])
    assert heights[2] - heights[1] == pytest.approx(heights[1] - heights[0])


def test_bars_beyond_all_end_at_the_top():
    ax = Figure().add_subplot()
    ax.plot([0, 0], [99.0, 101.0])
    accuracy_axis(ax, [99.0])
    assert ax.get_ylim()[1] == 100
    assert np.isfinite(ax.transData.transform([(0, 101.0)])).all()


def test_a_rank_correlation_has_its_interval():
    noise = np.random.default_rng(0).normal(size=20)
    values = np.exp(np.arange(20.0))
    error = pd.Series(np.arange(20.0) + 8 * noise)
    found = float(pd.Series(values).rank().corr(error.rank()))
    half = 1.96 * np.sqrt((1 + found**2 / 2) / 17)
    low, high = np.tanh(np.arctanh(found) - half), np.tanh(np.arctanh(found) + half)
    assert _correlation(values, error) == (
        f"rank correlation {found:+.2f} ({low:+.2f} to {high:+.2f}), n = 20"
    )
    # A point that is not drawn does not count; three say nothing; perfect order is finite.
    dropped = _correlation(np.where(np.arange(20) < 15, 0.0, values), error)
    assert dropped.endswith("n = 5")
    assert _correlation(values[:3], error[:3]) == "n = 3"
    assert _correlation(values, pd.Series(np.arange(20.0))).startswith("rank correlation +1.00 (")
