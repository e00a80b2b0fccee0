"""Tables of a store as files: CSV of stages and series, LaTeX of accuracies over seeds.

Accuracies are of the test set, in per cent: mean and sample standard deviation (divisor n - 1).
"""

from pathlib import Path

import pandas as pd

from ..report.chains import path_means
from ..report.seed_means import CELL_KEYS, is_marked, number, seed_means
from ..store.curves import measured_epochs
from ..store.tables import CHAIN, Finished, finished, stage_table
from .runs import run_of, tag

SERIES = ("study", "stage", "kind", "plr", "flr", "k", "seed", "epoch", "name", "value")
MARK = r"^{\dagger}"
"""of a cell with a seed at chance or without a finite loss"""
ESCAPES = {sign: "\\" + sign for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def write_csv(store: Path, folder: Path) -> int:
    """stages.csv, a row a stage, and series.csv, a row a value; returns the number of stages."""
    found = finished(store)
    stage_table(found).to_csv(folder / "stages.csv", index=False)
    _series(store, found).to_csv(folder / "series.csv", index=False)
    return len(found)


def _series(store: Path, found: list[Finished]) -> pd.DataFrame:
    """Every value of every epoch, under the names that the tracking tools show."""
    epochs = measured_epochs(store, found)
    if epochs.empty:
        return pd.DataFrame(columns=list(SERIES))
    long = epochs.melt(["stage", "epoch"], var_name="name", value_name="value")
    long = long.dropna(subset="value").assign(name=long["name"].map(tag))
    keys = ("kind", "plr", "flr", "k", "seed")
    stages = pd.DataFrame(
        [
            {"study": run.study, "stage": run.stage} | {key: run.config[key] for key in keys}
            for run in map(run_of, found)
        ]
    )
    whole = stages.astype({"k": "Int64"}).merge(long, on="stage")
    return whole[list(SERIES)].sort_values(["study", "stage", "name", "epoch"])


def write_latex(store: Path, folder: Path) -> int:
    """A table a study, NAME.tex, for a document with booktabs; returns the number of stages."""
    found = finished(store)
    stages = stage_table(found)
    for setup, rows in stages.groupby("setup", sort=False):
        run = run_of(next(f for f in found if f.setup == setup))
        is_chain = rows["experiment"].iloc[0] == CHAIN
        body = _chain_lines(rows) if is_chain else _grid_lines(rows)
        (folder / f"{run.study}.tex").write_text(_table(body, rows.iloc[0]), encoding="utf-8")
    return len(found)


def _grid_lines(stages: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The headings, and a row a PLR: pre-trained, fine-tuned by FLR, averaged by k."""
    columns: dict[tuple[str, float], dict[float, str]] = {}
    for kind, keys in CELL_KEYS.items():
        means = seed_means(stages, kind)
        for (_, cell), marked in zip(means.iterrows(), is_marked(means), strict=True):
            column = (kind, float(cell[keys[1]]) if keys[1:] else 0.0)
            text = _accuracy(cell["mean"], cell["std"], bool(marked))
            columns.setdefault(column, {})[float(cell["plr"])] = text
    order = list(CELL_KEYS)
    places = sorted(columns, key=lambda column: (order.index(column[0]), column[1]))
    words = {"pretrain": "pre-trained", "finetune": "FLR {}", "swa": "$k = {}$"}
    headings = ["PLR", *(words[kind].format(number(value)) for kind, value in places)]
    rates = sorted({plr for column in columns.values() for plr in column})
    return headings, [
        [number(plr), *(columns[place].get(plr, "--") for place in places)] for plr in rates
    ]


def _chain_lines(stages: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The headings, and a row a path of legs and number of averaged checkpoints."""
    means = path_means(stages)
    lost = means["num_stages"] > means["done"]
    return ["path", "$k$", "epochs", "test accuracy"], [
        [
            escaped(row["path"]).replace(">", r" $\to$ "),
            "--" if pd.isna(row["k"]) else number(float(row["k"])),
            str(row["epoch"]),
            _accuracy(row["mean"], row["std"], bool(marked)),
        ]
        for row, marked in zip(means.to_dict("records"), lost, strict=True)
    ]


def _accuracy(mean: float, std: float, marked: bool) -> str:
    if pd.isna(mean):
        return f"${MARK}$" if marked else "--"
    spread = "" if pd.isna(std) else rf" \pm {100 * std:.2f}"
    return f"${100 * mean:.2f}{spread}{MARK * marked}$"


def _table(body: tuple[list[str], list[list[str]]], first: pd.Series) -> str:
    headings, rows = body
    lines = [" & ".join(cells) + r" \\" for cells in rows]
    caption = (
        f"Test accuracy (\\%) of {escaped(str(first['model']))} on {escaped(str(first['dataset']))}"
        ": mean $\\pm$ sample standard deviation over seeds."
    )
    if any(MARK in line for line in lines):
        caption += f" ${MARK}$: with a seed at chance or without a finite loss."
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{caption}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(headings)} \\\\",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Text whose signs LaTeX prints as they are."""
    return "".join(ESCAPES.get(sign, sign) for sign in text)
