"""Means over seeds, and the words and tables made of them.

Everything that the figures draw and the report says is computed here, once: `seed_means` gives the
mean and the sample standard deviation (divisor n - 1) of the test accuracy over the seeds of a
cell, `summary` one row per PLR, `rich_table` the summary in a terminal.

The rows given to each function belong to one set-up: averages over different set-ups would mean
nothing, so they are refused. Accuracies are fractions in [0, 1], shown as per cent.
"""

import math

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

# What tells the cells of one kind of stage apart, besides the seed.
CELL_KEYS = {"pretrain": ["plr"], "finetune": ["plr", "flr"], "swa": ["plr", "k"]}
_COLUMNS = ["setup", "kind", "plr", "flr", "k", "seed", "test_accuracy", "state"]
# Ends of a stage that cells are marked for, and the columns that count them.
_MARKED = {"at-chance": "num_at_chance", "non-finite": "num_non_finite"}
_WORDS = {"num_at_chance": "at chance", "num_non_finite": "non-finite"}
SUMMARY_HEADINGS = ("PLR", "pre-trained", "best fine-tuned", "FLR", "best average", "k", "state")


def floats(column: pd.Series) -> np.ndarray:
    """A column as float64 (num_rows,), with NaN for everything missing or infinite."""
    values = pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def seed_means(stages: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Test accuracy of each cell of `kind` ("pretrain", "finetune" or "swa") over its seeds.

    Returns one row per cell, sorted: the cell's keys (`plr`; `flr` or `k`), `mean` and `std`
    (fractions; NaN without a finite accuracy and, for `std`, with fewer than two), `n` (seeds with
    a finite accuracy, at chance or not), `num_stages`, `num_at_chance` and `num_non_finite` (seeds
    that ended so).
    Raises ValueError if the rows belong to several set-ups or repeat a seed of a cell.
    """
    keys = CELL_KEYS[kind]
    # An empty store may give a table without columns.
    stages = stages.reindex(columns=_COLUMNS) if stages.empty else stages
    _refuse_several_setups(stages)
    rows = stages[stages["kind"] == kind]
    _refuse_repeated_seeds(rows, [*keys, "seed"])
    cells = pd.DataFrame({key: floats(rows[key]) for key in keys})
    cells["accuracy"] = floats(rows["test_accuracy"])
    for state, column in _MARKED.items():
        cells[column] = (rows["state"] == state).to_numpy(dtype=bool)
    # A learning rate that is no positive number has no place on a logarithmic axis.
    return (
        cells[cells["plr"] > 0]
        .groupby(keys)
        .agg(
            mean=("accuracy", "mean"),
            std=("accuracy", "std"),
            n=("accuracy", "count"),
            num_stages=("accuracy", "size"),
            **{column: (column, "sum") for column in _MARKED.values()},
        )
        .reset_index()
    )


def is_marked(means: pd.DataFrame) -> pd.Series:
    """Which rows of `seed_means` have a seed that is at chance or has no finite loss."""
    return (means[list(_MARKED.values())] > 0).any(axis=1)


def ends_in_words(cell: pd.Series) -> list[str]:
    """How the seeds of a row of `seed_means` ended, if not all as they should."""
    num_stages = int(cell["num_stages"])
    counts = {word: int(cell[name]) for name, word in _WORDS.items()}
    return [
        word if count == num_stages else f"{count}/{num_stages} {word}"
        for word, count in counts.items()
        if count
    ]


def candidates(means: pd.DataFrame) -> pd.DataFrame:
    """The rows of `seed_means` that may be the best.

    Cells with a seed that is at chance or has no finite loss are left out: the mean over the others
    would flatter them.
    """
    return means[~is_marked(means) & means["mean"].notna()]


def at_least(means: pd.DataFrame, mean: float) -> pd.DataFrame:
    """The candidates that reach a mean, within rounding."""
    allowed = candidates(means)
    return allowed[allowed["mean"].astype(float) >= mean - 1e-9]


def best(means: pd.DataFrame) -> pd.Series | None:
    """The first candidate with the highest mean, None if there is none."""
    allowed = candidates(means)
    if allowed.empty:
        return None
    return allowed.iloc[int(np.argmax(allowed["mean"].to_numpy(dtype=float)))]


def binomial_error(accuracy: float, num_images: int) -> float:
    """Standard error of an accuracy from the number of images alone: sqrt(p (1 - p) / n).

    Of at least one image right and one wrong: a perfect score has an error too.
    """
    p = min(max(accuracy, 1 / num_images), 1 - 1 / num_images)
    return math.sqrt(max(p * (1 - p), 0.0) / num_images)


def summary(stages: pd.DataFrame) -> pd.DataFrame:
    """One row per PLR: pre-trained, best fine-tuned and best averaged test accuracy.

    Columns: `plr`; `pretrained`, `pretrained_std`, `pretrained_n`; `finetuned`, `finetuned_std`,
    `finetuned_n`, `best_flr`; `averaged`, `averaged_std`, `averaged_n`, `best_k`; `state`.
    Accuracies are means over seeds (fractions), `_std` their sample standard deviations, `_n` the
    number of seeds; the best is the highest mean among cells of which no seed is marked
    (`is_marked`), or among all where every cell of the PLR is. `state` is that of the pre-training:
    "done", or of its seeds "at chance", "2/3 at chance", "non-finite", and "partial" when stages
    are missing that the other PLRs have.
    Raises ValueError if the rows belong to several set-ups.
    """
    means = {kind: seed_means(stages, kind) for kind in CELL_KEYS}
    plrs = sorted(set().union(*(part["plr"] for part in means.values())))
    num_stages = {plr: sum(_num_stages(part, plr) for part in means.values()) for plr in plrs}
    # Cells missing everywhere cannot be known from the table: the fullest row is the measure.
    full = max(num_stages.values(), default=0)
    rows = []
    for plr in plrs:
        at_plr = {kind: part[part["plr"] == plr] for kind, part in means.items()}
        pretrained = at_plr["pretrain"].iloc[0] if len(at_plr["pretrain"]) else None
        rows.append(
            {
                "plr": plr,
                **_accuracy("pretrained", pretrained),
                **_accuracy("finetuned", _best_or_any(at_plr["finetune"]), flr="best_flr"),
                **_accuracy("averaged", _best_or_any(at_plr["swa"]), k="best_k"),
                "state": _state(pretrained, partial=num_stages[plr] < full),
            }
        )
    columns = ["plr", *_accuracy("pretrained", None), *_accuracy("finetuned", None, flr="best_flr")]
    columns += [*_accuracy("averaged", None, k="best_k"), "state"]
    return pd.DataFrame(rows, columns=columns)


def summary_rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The rows of `summary` as text under `SUMMARY_HEADINGS`; accuracies by `percent`."""
    return [
        (
            number(row["plr"]),
            percent(row["pretrained"], row["pretrained_std"], row["pretrained_n"]),
            percent(row["finetuned"], row["finetuned_std"], row["finetuned_n"]),
            number(row["best_flr"]),
            percent(row["averaged"], row["averaged_std"], row["averaged_n"]),
            number(row["best_k"]),
            row["state"],
        )
        for row in table.to_dict("records")
    ]


def rich_table(table: pd.DataFrame) -> Table:
    """The table of `summary` for a terminal of 80 columns: the number of seeds is in the title."""
    counts = [int(n) for n in table["pretrained_n"].unique()] or [0]
    seeds = str(counts[0]) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    title = f"test accuracy, %: mean ± sample standard deviation, n = {seeds}"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("PLR", "pre-trained", "fine-tuned", "FLR", "averaged", "k", "state"):
        state = heading == "state"
        shown.add_column(heading, justify="left" if state else "right", no_wrap=not state)
    for row in table.assign(pretrained_n=math.nan, finetuned_n=math.nan, averaged_n=math.nan).pipe(
        summary_rows
    ):
        shown.add_row(*row)
    return shown


def number(value: float) -> str:
    """Three significant digits, or a dash for what is missing."""
    return "–" if value is None or math.isnan(value) else f"{value:.3g}"


def percent(mean: float, std: float, n: float) -> str:
    """Fractions as "93.21 ± 0.30 (3)"; without the parts that are NaN."""
    if math.isnan(mean):
        return "–"
    spread = "" if math.isnan(std) else f" ± {100 * std:.2f}"
    return f"{100 * mean:.2f}{spread}" + ("" if math.isnan(n) else f" ({n:.0f})")


def _refuse_several_setups(stages: pd.DataFrame) -> None:
    setups = sorted(map(str, stages["setup"].unique()))
    if len(setups) > 1:
        raise ValueError(f"one set-up at a time, got {len(setups)}: {', '.join(setups)}")


def _refuse_repeated_seeds(rows: pd.DataFrame, identity: list[str]) -> None:
    repeated = rows[rows.duplicated(identity)]
    if len(repeated):
        first = ", ".join(f"{name} {repeated.iloc[0][name]}" for name in identity)
        raise ValueError(f"{len(repeated)} repeated stages in one set-up, the first at {first}")


def _num_stages(means: pd.DataFrame, plr: float) -> int:
    return int(means.loc[means["plr"] == plr, "num_stages"].sum())


def _accuracy(name: str, cell: pd.Series | None, **keys: str) -> dict[str, float]:
    columns = {"mean": name, "std": f"{name}_std", "n": f"{name}_n", **keys}
    missing = {"n": 0.0}
    return {
        column: missing.get(key, math.nan) if cell is None else float(cell[key])
        for key, column in columns.items()
    }


def _best_or_any(means: pd.DataFrame) -> pd.Series | None:
    """`best`, or the highest mean of all where every cell is marked."""
    every = is_marked(means).all()
    return best(means.assign(**dict.fromkeys(_MARKED.values(), 0)) if every else means)


def _state(pretrained: pd.Series | None, *, partial: bool) -> str:
    parts = [] if pretrained is None else ends_in_words(pretrained)
    if partial:
        parts.append("partial")
    return ", ".join(parts) or "done"
