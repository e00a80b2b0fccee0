"""The training curves of a page, small: two characters a value, and no more points than fit.

A chart of the page's script (charts.js) is some 200 pixels high. A value is sent as one of 4,095
levels between the lowest and the highest of its curve, on the scale on which it is drawn, so that
what is lost is a fraction of a pixel.
"""

import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fasttrain.report.seed_means import floats

MAX_POINTS = 60
"""of one curve"""
MAX_BYTES = 440_000
"""of all curves of a page together: with more stages they have fewer points"""
_OTHER_BYTES = 60
"""of the curves of a stage: their lowest and highest values"""
DIGITS = np.array(list(string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"))
"""of base 64; the highest number of two of them stands for what is not drawn"""
NUM_LEVELS = 64 * 64 - 1


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.where(values > 0, values, np.nan))


def of_error(percent: np.ndarray) -> np.ndarray:
    """The scale on which accuracies are drawn and coloured, ascending."""
    # No mistake at all has no logarithm: it counts as 0.05 %.
    return -np.log(np.maximum(100.05 - percent, 0.001))


# As in charts.js: column, factor, the scale it is drawn on.
_CURVES: tuple[tuple[str, float, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("train_loss", 1, _log),
    ("test_accuracy", 100, of_error),
    ("grad_norm", 1, _log),
)


def packed_curves(
    epochs: pd.DataFrame, stages: Sequence[str], max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """What the script draws of `stages`, by their places, in about so many bytes at most.

    Returns `epochs`, lists of epochs; `curves`, of each stage None or [which list, then of loss,
    accuracy in % and gradient norm: lowest, highest, levels]; and `points`, the number of epochs of
    a stage that were kept at most, or None if all tested ones were.
    """
    places = {stage: place for place, stage in enumerate(stages)}
    curves: list[list[Any] | None] = [None] * len(places)
    lists: dict[tuple[int, ...], int] = {}
    rows = epochs[epochs["stage"].isin(places)] if len(epochs) else epochs
    if rows.empty:
        return {"epochs": [], "curves": curves, "points": None}
    rows = rows.sort_values(["stage", "epoch"])
    ids, at_epoch = rows["stage"].to_numpy(), rows["epoch"].to_numpy()
    columns = [(factor * floats(rows[name]), of) for name, factor, of in _CURVES]
    tested = np.isfinite(floats(rows["test_accuracy"]))
    bounds = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    share = max_bytes // (len(bounds) + 1) - _OTHER_BYTES
    num_points = int(np.clip(share // (2 * len(_CURVES)), 8, MAX_POINTS))
    thinned = False
    for curve in np.split(np.arange(len(rows)), bounds):
        # The first, the last, and tested ones evenly between.
        candidates = np.union1d(curve[tested[curve]], curve[[0, -1]])
        chosen = np.linspace(0, len(candidates) - 1, min(num_points, len(candidates)))
        kept = candidates[np.unique(chosen.round().astype(int))]
        thinned |= len(candidates) > num_points
        which = lists.setdefault(tuple(at_epoch[kept].tolist()), len(lists))
        parts = [_packed(values[kept], of) for values, of in columns]
        curves[places[str(ids[curve[0]])]] = [which, *sum(parts, [])]
    epochs_of = [list(at) for at in lists]
    return {"epochs": epochs_of, "curves": curves, "points": num_points if thinned else None}


def _packed(values: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> list[Any]:
    """[lowest, highest, levels] of what can be drawn: five digits each, two characters a value."""
    drawn = np.isfinite(of(values))
    if not drawn.any():
        return [None, None, 2 * len(values) * DIGITS[63]]
    ends = [float(f"{end(values[drawn]):.5g}") for end in (np.min, np.max)]
    low, high = of(np.array(ends))
    # A flat curve has its value as both ends.
    share = (of(values[drawn]) - low) / (high - low if high > low else 1.0)
    levels = np.full(len(values), NUM_LEVELS)
    levels[drawn] = np.rint(np.clip(share, 0, 1) * (NUM_LEVELS - 1))
    pairs = np.stack(np.divmod(levels, 64), axis=1)
    return [*ends, "".join(DIGITS[pairs].ravel())]
