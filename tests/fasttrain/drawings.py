"""Figures of a grid by name, and grids with cells that are lost."""

import dataclasses

import numpy as np
import pandas as pd

from fasttrain.analysis.regimes import classify
from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures import Drawn, drawn

NAN = float("nan")


def of(results: SetupResults, name: str) -> Drawn:
    """The figure of a grid."""
    return next(item for item in drawn(results, classify(results)) if item.drawing.name == name)


def mark(results: SetupResults, accuracy: float = NAN, **cell: float | str) -> SetupResults:
    """Cells without a finite loss, or with an accuracy at chance."""
    state = "non-finite" if np.isnan(accuracy) else "at-chance"
    stages = results.stages.copy()
    chosen = np.logical_and.reduce([stages[key] == value for key, value in cell.items()])
    stages.loc[chosen, ["state", "test_accuracy"]] = [state, accuracy]
    return dataclasses.replace(results, stages=stages)


def mean_of(rows: pd.DataFrame, column: str) -> np.ndarray:
    """The mean of every PLR, in ascending order."""
    return rows.groupby("plr")[column].mean().to_numpy()
