"""The table of all stages of a set-up: its columns, its rows, and what can be chosen and drawn."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fasttrain.report.chains import REGIME_HEADING
from fasttrain.report.seed_means import floats

_Column = tuple[str, str, int | None, str]
"""heading, column of the table, scale, format"""
_STAGE_COLUMNS: tuple[_Column, ...] = (
    ("kind", "kind", None, "{}"),
    ("PLR", "plr", 1, "{:.3g}"),
    ("regime", "regime", None, "{}"),
    ("FLR", "flr", 1, "{:.3g}"),
    ("k", "k", 1, "{:.0f}"),
    ("seed", "seed", 1, "{:.0f}"),
    ("epoch", "epoch", 1, "{:.0f}"),
    ("train loss", "train_loss", 1, "{:.4g}"),
    ("train %", "train_accuracy", 100, "{:.2f}"),
    ("test loss", "test_loss", 1, "{:.4g}"),
    ("test %", "test_accuracy", 100, "{:.2f}"),
    ("gradient norm", "grad_norm", 1, "{:.4g}"),
    ("time (s)", "time_s", 1, "{:.1f}"),
    ("state", "state", None, "{}"),
    ("stage", "stage", None, "{}"),
)
_CHAIN_COLUMNS: tuple[_Column, ...] = (
    ("path", "path", None, "{}"),
    *(column for column in _STAGE_COLUMNS if column[0] not in ("kind", "PLR", "regime", "FLR")),
)
_LOG = ("plr", "flr", "train_loss", "test_loss", "grad_norm")
_ERROR = ("train_accuracy", "test_accuracy")
_KINDS = {name: kind for kind, names in (("log", _LOG), ("error", _ERROR)) for name in names}
"""scales of columns in a scatter (charts.js), where they are not linear"""
_NOTE: _Column = ("note", "note", None, "{}")
"""the last column, where there are notes"""


def stage_table(
    stages: pd.DataFrame,
    regimes: pd.DataFrame,
    *,
    of_chain: bool = False,
    regime_of_start: bool = False,
) -> dict[str, Any]:
    """The rows of all stages, what rows can be chosen by, and the axes of their scatter.

    Args:
        regime_of_start: chains: whether `stages` has the regime that each started from, as `start`.
    """
    columns = _CHAIN_COLUMNS if of_chain else _STAGE_COLUMNS
    if regime_of_start:
        columns = (*columns[:1], (REGIME_HEADING, "start", None, "{}"), *columns[1:])
    if stages["note"].any():
        columns = (*columns, _NOTE)
    rows = _rows(stages, regimes, columns)
    headings = [heading for heading, *_ in columns]
    numeric = [heading for heading, _, scale, _ in columns if scale is not None]
    words = [name for name in headings if name in ("kind", "regime", REGIME_HEADING, "state")]
    across = "train loss" if of_chain else "PLR"
    colour = next(name for name in ("regime", REGIME_HEADING, "state") if name in words)
    choices = ["state"] if of_chain else words
    return {
        "stages": rows,
        "stage_headings": headings,
        "kinds": {heading: _KINDS.get(name, "") for heading, name, *_ in columns},
        "choices": [(name, sorted({r[headings.index(name)] for r in rows})) for name in choices],
        "axes": [
            ("x", numeric, across),
            ("y", numeric, "test %"),
            ("colour", [*words, *numeric], colour),
        ],
    }


def _rows(
    stages: pd.DataFrame, regimes: pd.DataFrame, columns: Sequence[_Column]
) -> list[list[str]]:
    known = zip(regimes["plr"], regimes["seed"], regimes["regime"], strict=True)
    regime = {(plr, seed): name for plr, seed, name in known}
    pairs = zip(stages["plr"], stages["seed"], strict=True)
    table = stages.assign(regime=[regime.get(pair, "–") for pair in pairs])
    cells = []
    for _, name, scale, text in columns:
        if scale is None:
            cells.append([text.format(value) for value in table[name]])
        else:
            values = scale * floats(table[name])
            cells.append(["–" if value != value else text.format(value) for value in values])
    return [list(row) for row in zip(*cells, strict=True)]
