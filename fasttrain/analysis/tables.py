"""The tables that analyses fill, and everything known of one set-up together.

Every table is tidy, one row per thing. Stages appear by their ids, which join to
`SetupResults.stages`: PLR, FLR, k and seed stand there and nowhere else. What is not known is NaN.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

TABLES: dict[str, dict[str, str]] = {
    # Two end points of one (PLR, seed): "low-high" FLR, "swa-low", "swa-high", in this order. The
    # angle is in rad; barriers are drops along the straight line between them, at least 0, of
    # accuracies as fractions; k is the average's, missing for "low-high".
    "pairs": {"pair": "str", "stage_a": "str", "stage_b": "str", "angle": "float64"}
    | dict.fromkeys(("train_barrier", "test_barrier"), "float64")
    | dict.fromkeys(("train_loss_barrier", "test_loss_barrier"), "float64")
    | {"k": "Int64"},
    # The points of those lines: theta = (1 - alpha) a + alpha b.
    "paths": {"pair": "str", "stage_a": "str", "stage_b": "str", "alpha": "float64"}
    | dict.fromkeys(("train_loss", "train_accuracy", "test_loss", "test_accuracy"), "float64"),
    # Every two stages of a seed that have a state, the first before the second in the results.
    "angles": {"stage_a": "str", "stage_b": "str", "angle": "float64"},
    # Of the norms n_i of all filters, or of all tensors, at the end of an epoch counted from the
    # start of pre-training: standard deviation of log10 n_i, (sum n_i^2)^2 / sum n_i^4, and
    # effective learning rates.
    "norms": {"stage": "str", "epoch": "int64", "level": "str", "num_groups": "int64"}
    | dict.fromkeys(("spread", "effective_groups", "min_elr", "median_elr", "max_elr"), "float64"),
    # How many norms lie at 10^log10_low to 10^log10_high of the radius: 50 bins over [-6, 0], what
    # lies outside in the first or the last. At initialisation, and at every stage's end.
    "histograms": {"stage": "str", "epoch": "int64", "level": "str"}
    | {"log10_low": "float64", "log10_high": "float64", "count": "int64"},
    # Mean norm of a batch's gradient, and that times ||theta||; the trace of the Hessian on the
    # sphere of radius 1, with its standard error over probes. Then the scale of 2209.03695, at the
    # norm n = ||theta|| of the N weights: trace / (n^2 N).
    "sharpness": {"stage": "str"}
    | dict.fromkeys(("train_loss", "train_accuracy", "grad_norm"), "float64")
    | dict.fromkeys(("effective_grad_norm", "trace", "trace_error"), "float64")
    | {"num_images": "int64", "norm": "float64", "num_weights": "Int64"}
    | {"trace_at_norm": "float64"},
    # The largest eigenvalues of that Hessian, from rank 1 down, and their residuals relative to
    # the largest: within residual * |largest| of each value there is an eigenvalue. In the scale of
    # 2209.03695 it is value / n^2.
    "eigenvalues": {"stage": "str", "rank": "int64"}
    | dict.fromkeys(("value", "residual", "value_at_norm"), "float64"),
    # Test accuracy on images of which only the frequencies low <= |kx| + |ky| < high are left;
    # band 0 is the unfiltered image.
    "bands": {"stage": "str", "band": "int64", "low": "float64", "high": "float64"}
    | {"accuracy": "float64"},
    # Accuracies of a linear classifier of another data set on the features of a stage, on that
    # set's training and test images.
    "transfer": {"stage": "str", "target": "str", "num_features": "int64"}
    | dict.fromkeys(("train_accuracy", "accuracy"), "float64"),
}
"""Columns and dtypes of every table, by name."""


IDS = ("stage", "stage_a", "stage_b")
"""columns that hold ids of stages"""


def empty(name: str) -> pd.DataFrame:
    """A table of `TABLES` without a row."""
    return pd.DataFrame({column: pd.Series(dtype=t) for column, t in TABLES[name].items()})


SET_COLUMNS = ("stage", "epoch", "set", "loss", "accuracy")
DIMENSION_COLUMNS = ("stage", "set", "accuracy", "parent", "path", "seed", "dimension")


def _table(name: str) -> Any:
    return field(default_factory=partial(empty, name))


@dataclass(frozen=True, kw_only=True)
class SetupResults:
    """Everything known of one set-up: what figures draw and sentences say."""

    setup: str
    """its id, as in `setups.load_setups`"""
    configuration: dict[str, Any]
    """as in `setups.load_setups`: data, network, training, versions, num_classes, num_train,
    num_test"""
    stages: pd.DataFrame
    """rows of `results.load`"""
    epochs: pd.DataFrame
    """rows of `setups.curves`"""
    planned: pd.DataFrame | None = None
    """stage, kind, plr, flr, k and seed of all that the store was asked for; None if not known"""
    sets: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SET_COLUMNS))
    """rows of `sets.load_sets`"""
    dimensions: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=DIMENSION_COLUMNS)
    )
    """of pairs of patterns: ends of the set-ups of the store that differ in the dimension alone"""
    pairs: pd.DataFrame = _table("pairs")
    paths: pd.DataFrame = _table("paths")
    angles: pd.DataFrame = _table("angles")
    norms: pd.DataFrame = _table("norms")
    histograms: pd.DataFrame = _table("histograms")
    sharpness: pd.DataFrame = _table("sharpness")
    eigenvalues: pd.DataFrame = _table("eigenvalues")
    bands: pd.DataFrame = _table("bands")
    transfer: pd.DataFrame = _table("transfer")
