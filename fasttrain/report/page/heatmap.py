"""What the interactive heatmap shows: one table of cells for the page, and curves for its script.

`heatmap` gives the template the cells with their colours and marks; `script_data` gives the script
of the page (page.js) the words, stages and curves of the same cells, as JSON that is safe inside a
script element.
"""

import json
import math
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from fasttrain.report.best import result_words
from fasttrain.report.headline import regime_in_words
from fasttrain.report.page.cell_snippet import PLACE
from fasttrain.report.page.curves import of_error, packed_curves
from fasttrain.report.page.sample import Sample
from fasttrain.report.seed_means import (
    CELL_KEYS,
    at_least,
    candidates,
    ends_in_words,
    floats,
    number,
    seed_means,
)

NUM_LEVELS = 24
_FLAGS = {"finetune": "flr", "swa": "k"}


class Cells:
    """The cells of one set-up, in the order in which the page shows them.

    Args:
        stages: rows of `results.load` of one set-up.
        by_plr: regime of each PLR.
        num_test: test images; None if that is not known.
        shown: those of the page's table, in its order.
    """

    def __init__(
        self, stages: pd.DataFrame, by_plr: dict[float, str], num_test: int | None, shown: Sample
    ) -> None:
        self.shown = shown
        self.num_test = num_test
        means = [seed_means(stages, kind).assign(kind=kind) for kind in CELL_KEYS]
        self.results = pd.concat(means, ignore_index=True)
        self.plrs = sorted(self.results["plr"].unique())
        self.regimes = [by_plr.get(plr, "") for plr in self.plrs]
        self.seeds = sorted(int(seed) for seed in stages["seed"].unique())
        # The rate of a row, highest FLR first as on an axis; pre-training; averages below.
        self.rows: list[tuple[str, float]] = [
            *(("finetune", flr) for flr in self._values("finetune", "flr")[::-1]),
            ("pretrain", math.nan),
            *(("swa", k) for k in self._values("swa", "k")),
        ]
        found = {self._key(cell["kind"], cell): cell for _, cell in self.results.iterrows()}
        self.table = [
            [found.get((kind, None if kind == "pretrain" else value, plr)) for plr in self.plrs]
            for kind, value in self.rows
        ]
        highest = float(candidates(self.results)["mean"].max())
        self.winners = set(at_least(self.results, highest).index)

    def label(self, row: int) -> str:
        kind, value = self.rows[row]
        name = {"finetune": "FLR", "swa": "average, k =", "pretrain": "pre-trained"}[kind]
        return name if kind == "pretrain" else f"{name} {number(value)}"

    def is_best(self, cell: pd.Series) -> bool:
        return cell.name in self.winners

    def _values(self, kind: str, key: str) -> list[float]:
        return sorted(self.results.loc[self.results["kind"] == kind, key].unique())

    @staticmethod
    def _key(kind: str, cell: pd.Series) -> tuple:
        return kind, cell[_FLAGS[kind]] if kind in _FLAGS else None, cell["plr"]


def state_of(cell: pd.Series | None, num_seeds: int) -> str:
    """A cell's state in words, over its seeds."""
    if cell is None:
        return "not finished"
    parts, num_stages = ends_in_words(cell), int(cell["num_stages"])
    if num_stages < num_seeds:
        parts.append(f"{num_stages} of {num_seeds} seeds finished")
    return ", ".join(parts) or "done"


def palette() -> str:
    """Style rules of the classes v0 (worst) to v{NUM_LEVELS - 1}: viridis, with legible ink."""
    rules = []
    for level, colour in enumerate(colormaps["viridis"](np.linspace(0, 1, NUM_LEVELS))):
        ink = "#000" if colour[:3] @ (0.3, 0.59, 0.11) > 0.45 else "#fff"
        hue = to_hex(colour)
        rules.append(f".v{level}{{background:{hue};fill:{hue}}}.heatmap .v{level}{{color:{ink}}}")
    return "\n".join(rules)


def heatmap(cells: Cells) -> dict[str, Any]:
    """What the template draws: bands of regimes, columns, rows of cells, and the key to them.

    Colours follow the logarithm of the test error, so that 1 % and 2 % differ as 10 % and 20 % do.
    """
    ends = _scale(cells)
    rows = []
    for index, (kind, _) in enumerate(cells.rows):
        shown = [_shown(cells, cell, ends) for cell in cells.table[index]]
        apart = index > 0 and cells.rows[index - 1][0] != kind
        rows.append({"label": cells.label(index), "cells": shown, "apart": apart})
    looks = [cell["look"].split() for row in rows for cell in row["cells"]]
    bands = [(name, len(list(group))) for name, group in groupby(cells.regimes)]
    scale = None
    if ends is not None and ends[0] < ends[1]:
        low, high = (f"{100 * end:.1f}" for end in ends)
        scale = {"low": low, "high": high, "levels": range(NUM_LEVELS)}
        scale["ends"] = [f"{100 * end:.8g}" for end in ends]
    return {
        "plrs": [number(plr) for plr in cells.plrs],
        "bands": [{"label": _band(name), "span": span} for name, span in bands],
        "rows": rows,
        "scale": scale,
        "has_best": any("best" in look for look in looks),
        "has_lost": any("lost" in look for look in looks),
        "has_part": any("†" in cell["short"] for row in rows for cell in row["cells"]),
        "has_unsure": any("undecided" in name for name in cells.regimes),
        "has_waiting": any("waiting" in look for look in looks),
    }


def script_data(cells: Cells, epochs: pd.DataFrame, command: str | None) -> str:
    """The JSON for page.js: cells in the heatmap's order, stages by their place in the table."""
    in_python = command is not None and PLACE in command
    data = {
        "plrs": [f"{plr:.6g}" for plr in cells.plrs],
        "regimes": [_regime_words(name) for name in cells.regimes],
        "rows": [_row(cells, index, in_python) for index in range(len(cells.rows))],
        "cells": _script_cells(cells),
        **packed_curves(epochs, cells.shown.stages["stage"].to_list(), cells.shown.curve_bytes),
        "commands": _commands(command, cells.seeds),
    }
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Inside a script element only "<" could end it or begin a comment.
    return text.replace("<", "\\u003c")


def _band(regime: str) -> str:
    """Short enough for a single column: "1?" where a seed is undecided."""
    names = [name for name in regime.split("/") if name != "undecided"]
    return "/".join(names) + ("?" if "undecided" in regime else "")


def _regime_words(regime: str) -> str:
    if regime in ("", "undecided"):
        return regime and "; PLR in no decided regime"
    return f"; PLR in {regime_in_words(regime)}"


def _accuracy(cell: pd.Series | None) -> float | None:
    """A cell's mean; None without a finite accuracy."""
    return None if cell is None or cell["n"] == 0 else float(cell["mean"])


def _scale(cells: Cells) -> tuple[float, float] | None:
    """The lowest and the highest accuracy that colours tell apart.

    Cells that are at chance for every seed are left out if there are others: shown in the colour of
    the lowest, they do not take the colours from the rest.
    """
    known = cells.results[cells.results["n"] > 0]
    above = known[known["num_at_chance"] < known["num_stages"]]
    means = (known if above.empty else above)["mean"]
    return None if means.empty else (float(means.min()), float(means.max()))


def _shown(
    cells: Cells, cell: pd.Series | None, scale: tuple[float, float] | None
) -> dict[str, str]:
    if cell is None:
        return {"look": "waiting", "short": "·"}
    accuracy = _accuracy(cell)
    if accuracy is None or scale is None:
        return {"look": "lost", "short": "✕"}
    low, high, here = (float(of_error(100 * np.asarray(value))) for value in (*scale, accuracy))
    share = (here - low) / (high - low) if high > low else 1.0
    level = round(min(max(share, 0.0), 1.0) * (NUM_LEVELS - 1))
    digits = 2 if len(cells.plrs) <= 12 else 1
    return {
        "look": f"v{level}" + (" best" if cells.is_best(cell) else ""),
        "short": f"{100 * accuracy:.{digits}f}" + ("†" if ends_in_words(cell) else ""),
    }


def _row(cells: Cells, index: int, in_python: bool) -> dict[str, str]:
    """Of a row its flags, and what stands behind a PLR in a cell's command."""
    kind, value = cells.rows[index]
    exact = f"{value:.6g}" if kind == "finetune" else f"{value:.0f}"
    flags = f" --{_FLAGS[kind]} {exact}" if kind in _FLAGS else ""
    given = {name: exact if _FLAGS.get(kind) == name else "" for name in ("flr", "k")}
    lists = f"], flr=[{given['flr']}], k=[{given['k']}]"
    return {"flags": flags, "given": lists if in_python else flags}


def _commands(command: str | None, seeds: list[int]) -> list[list[str]]:
    """What makes a cell: [before, after] its rates."""
    if command is None:
        return []
    if PLACE in command:
        before, after = command.split(PLACE)
        return [[f"{before}plr=[", after]]
    return [[f"{command} --plr ", f" --seed {seed}"] for seed in seeds]


def _script_cells(cells: Cells) -> list[list[list[Any]]]:
    """[words, stages] of each cell, a stage as [place, place of the parent, seed]."""
    members: dict[tuple, list[list[int | None]]] = {}
    stages = cells.shown.stages
    columns = (stages[name] for name in ("kind", "seed"))
    rates = (floats(stages[name]) for name in ("plr", "flr", "k"))
    keys = list(zip(*columns, *rates, strict=True))
    roots = {(plr, seed): i for i, (kind, seed, plr, *_) in enumerate(keys) if kind == "pretrain"}
    for place, (kind, seed, plr, flr, k) in enumerate(keys):
        value = {"finetune": flr, "swa": k}.get(kind)
        parent = None if kind == "pretrain" else roots.get((plr, seed))
        members.setdefault((kind, value, plr), []).append([place, parent, int(seed)])
    shown = []
    for index, (kind, value) in enumerate(cells.rows):
        key = None if kind == "pretrain" else value
        words = [_words(cells, index, column) for column in range(len(cells.plrs))]
        stages = [members.get((kind, key, plr), []) for plr in cells.plrs]
        shown.append([list(pair) for pair in zip(words, stages, strict=True)])
    return shown


def _words(cells: Cells, row: int, column: int) -> str:
    """A cell in words: its rates, its accuracy and state."""
    cell = cells.table[row][column]
    text = "no result" if cell is None else result_words(cell, cells.num_test)
    state = state_of(cell, len(cells.seeds))
    rates = f"PLR {number(cells.plrs[column])}, {cells.label(row)}"
    return f"{rates}: {text}, {state}"
