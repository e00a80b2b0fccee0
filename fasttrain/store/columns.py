"""The columns of a stage's table of epochs. Imports nothing heavy."""

from collections.abc import Sequence

SCORES = (
    "train_loss",
    "train_accuracy",
    "train_balanced_accuracy",
    "grad_norm",
    "test_loss",
    "test_accuracy",
)
"""One value each per epoch; test scores are NaN in epochs without a test pass."""
COLUMNS = (*SCORES, "distance")
"""Of every epoch: the scores, and how far it ended from the start of the stage.

The distance is the angle between the sphere weights then and now, in rad (of an average: NaN).
"""
TESTED = slice(SCORES.index("test_loss"), SCORES.index("test_accuracy") + 1)
"""where a row of scores has those of the test set"""
PROBE_COLUMNS = ("probe_{}_loss", "probe_{}_accuracy")
"""of every probe set, behind `COLUMNS`, by its name"""

PASS_COLUMNS = ("pass_loss", "pass_accuracy", "pass_grad_norm")
"""of a pass over the training set at the weights of an epoch's end, behind all others in the table
of a stage that has one: NaN in epochs without; the gradient norm is effective"""


def probe_columns(names: Sequence[str]) -> list[str]:
    """The columns of probe sets."""
    return [column.format(name) for name in names for column in PROBE_COLUMNS]
