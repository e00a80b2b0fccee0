"""What the page says of chains of legs: the paths, their ends over seeds, and how they compare."""

import math
from collections.abc import Iterable, Mapping

import pandas as pd
from rich import box
from rich.table import Table

from fasttrain.analysis.regimes import first_legs, not_judged
from fasttrain.analysis.tables import SetupResults
from fasttrain.report.best import result_words
from fasttrain.report.seed_means import number, percent
from fasttrain.report.waiting import waited_for
from fasttrain.training.chance import ENDS

SUMMARY_HEADINGS = ("path", "k", "epochs", "train %", "test %", "seeds", "state")
REGIME_HEADING = "regime of the first leg"


def is_chain(results: SetupResults) -> bool:
    """Whether a set-up is of chains of legs, not a grid of PLR x FLR."""
    return results.configuration.get("experiment", {}).get("kind") == "chain"


def starting_regimes(results: SetupResults) -> dict[str, str]:
    """The regime of the first leg of every finished stage, by its id; empty if none is judged."""
    if not_judged(results.configuration):
        return {}
    legs = first_legs(results)
    regimes = dict(zip(legs["stage"], legs["regime"], strict=True))
    parents = dict(zip(results.stages["stage"], results.stages["parent"], strict=True))
    return {stage: regimes.get(root_of(stage, parents), "undecided") for stage in parents}


def root_of(stage: str, parents: Mapping[str, str | None]) -> str:
    """The first leg of a stage's path, among the stages that are known."""
    # Of first legs it is missing, which is None or NaN by the version of pandas.
    while isinstance(parent := parents.get(stage), str):
        stage = parent
    return stage


def regimes_in_words(regimes: Iterable[str]) -> str:
    """The regimes of first legs in a few words: those of all seeds."""
    return "/".join(sorted(set(regimes)))


def path_means(stages: pd.DataFrame) -> pd.DataFrame:
    """One row per path, length and k, over its seeds; in the order of the paths' lengths and rates.

    Columns: path, k, epoch, depth, mean, std (of test accuracy; divisor n - 1), n (finite ones),
    train (mean), num_stages, and a count for each state of `ENDS`.
    """
    rows = []
    keys = ["depth", "path", "k", "epoch"]
    for (depth, path, k, epoch), found in stages.groupby(keys, dropna=False, sort=True):
        test = found["test_accuracy"].dropna()
        rows.append(
            {"path": path, "k": k, "epoch": epoch, "depth": depth}
            | {"mean": test.mean(), "std": test.std(), "n": len(test)}
            | {"train": found["train_accuracy"].mean(), "num_stages": len(found)}
            | {state: int((found["state"] == state).sum()) for state in ENDS}
            | ({"regime": regimes_in_words(found["regime"])} if "regime" in found else {})
        )
    columns = ["path", "k", "epoch", "depth", "mean", "std", "n", "train", "num_stages", *ENDS]
    columns += ["regime"] if "regime" in stages else []
    return pd.DataFrame(rows, columns=columns)


def path_name(path: str, k: float | None = None) -> str:
    """A path for people: "0.01 → 0.001", and the checkpoints of an average."""
    words = path.replace(">", " → ")
    return words if k is None or pd.isna(k) else f"{words}, average of {number(float(k))}"


def chain_summary(
    stages: pd.DataFrame, regimes: Mapping[str, str] | None = None
) -> list[tuple[str, ...]]:
    """The rows of the page's table, under `SUMMARY_HEADINGS`.

    Args:
        regimes: `starting_regimes`, for a column more, under `REGIME_HEADING`.
    """
    rows = []
    if regimes:
        stages = stages.assign(regime=stages["stage"].map(regimes))
    for row in path_means(stages).to_dict("records"):
        states = [f"{row[state]} {state}" for state in ENDS if row[state]]
        one = len(states) == 1
        rows.append(
            (
                path_name(row["path"]),
                "–" if pd.isna(row["k"]) else number(float(row["k"])),
                number(float(row["epoch"])),
                percent(row["train"], math.nan, math.nan),
                percent(row["mean"], row["std"], math.nan),
                str(row["num_stages"]),
                states[0].split(" ", 1)[1] if one else ", ".join(states),
                *([row["regime"]] if regimes else []),
            )
        )
    return rows


def chain_table(stages: pd.DataFrame) -> Table:
    """The table for a terminal."""
    shown = Table(
        title="ends of the legs: mean over seeds ± sample standard deviation",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in SUMMARY_HEADINGS:
        text = heading in ("path", "state")
        shown.add_column(heading, justify="left" if text else "right", no_wrap=not text)
    for row in chain_summary(stages):
        shown.add_row(*row)
    return shown


def chain_headline(results: SetupResults) -> list[str]:
    """The best path, what a single leg reaches beside it, and what is not finished."""
    stages = results.stages
    if stages.empty:
        return ["No stage has finished yet."]
    means = path_means(stages)
    count = ", ".join(f"{int((stages['state'] == state).sum())} {state}" for state in ENDS)
    waiting = waited_for(results)
    sentences = []
    known = means[means["n"] > 0]
    if len(waiting):
        left = "1 stage" if len(waiting) == 1 else f"{len(waiting)} stages"
        verb = "is" if len(waiting) == 1 else "are"
        sentences.append(f"{left} of the plan {verb} not finished: no path is judged yet.")
    elif len(known):
        sentences += _verdict(known, results.configuration.get("num_test"))
    sentences.append(_starts(results))
    return [*sentences, f"Stages: {count}."]


def _starts(results: SetupResults) -> str:
    """Of which regimes the first legs are, or why that is not told."""
    withheld = not_judged(results.configuration)
    if withheld:
        return f"Regimes of first legs are {withheld}."
    legs = first_legs(results)
    rates = [
        f"{number(float(str(plr)))} {regimes_in_words(rows['regime'])}"
        for plr, rows in legs.groupby("plr", sort=True)
    ]
    return f"Regimes of first legs, by rate: {', '.join(rates)}; A and B are told of grids alone."


def _verdict(known: pd.DataFrame, num_test: int | None) -> list[str]:
    best = known.sort_values("mean").iloc[-1]
    ties = known[known["mean"] >= best["mean"] - 1e-12]
    others = f", and {len(ties) - 1} more paths with the same" if len(ties) > 1 else ""
    sentences = [
        f"Best end: {path_name(best['path'], best['k'])} with a test accuracy of"
        f" {result_words(best, num_test)}{others}."
    ]
    single = known[(known["depth"] == 1) & known["k"].isna()]
    if len(single) and best["depth"] > 1:
        alone = single.sort_values("mean").iloc[-1]
        gain = 100 * (best["mean"] - alone["mean"])
        sentences.append(
            f"That is {gain:.2f} points above the best single rate, {path_name(alone['path'])}"
            f" after {number(float(alone['epoch']))} epochs ({result_words(alone, num_test)})."
        )
    return sentences
