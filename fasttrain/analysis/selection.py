"""What there is to analyse in a set-up: which pairs, which stages, and what is left out and why."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import pandas as pd

from ..settings.rates import canonical
from ..store.tables import CHAIN
from .geometry import NUM_POINTS
from .records import Analysis
from .request import Request
from .sharpness import HessianSettings
from .target import Target

KINDS = {
    "geometry": ("angles", "lines"),
    "norms": ("norms",),
    "sharpness": ("sharpness",),
    "features": ("features",),
    "transfer": ("transfer",),
}
"""Analyses by the names that the command line knows, in the order in which they are made."""


@dataclass
class Selection:
    """The analyses of one set-up, by kind, and remarks for the user."""

    analyses: dict[str, list[Analysis]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def path_between(
    pair: str, stages: tuple[str, str], plr: float, seed: int, points: int = NUM_POINTS
) -> Analysis:
    """The analysis of the path between two stages of one PLR and seed."""
    settings = {"pair": pair, "points": points}
    return Analysis("lines", stages, settings, seed, f"path {pair} plr {plr:g} seed {seed}")


def missing_rates(request: Request, stages: pd.DataFrame) -> list[str]:
    """Of the rates that were asked for those that no fine-tuning has, with their flags."""
    rates = {canonical(rate) for rate in stages["flr"].dropna()}
    asked = {"--low": request.low, "--high": request.high}
    return [
        f"{flag} {rate:g}"
        for flag, rate in asked.items()
        if rate is not None and canonical(rate) not in rates
    ]


def select(
    stages: pd.DataFrame,  # of one set-up, as `results.load` gives them
    with_state: Sequence[str],  # ids of those that have a state
    request: Request,
    *,
    pictures: bool = True,
    target: Target | None = None,
) -> Selection:
    """Everything that is asked for of one set-up, whether or not the store holds it.

    Args:
        pictures: whether the data are some, with frequencies to look at.
        target: what features are transferred to; no transfer if not given.
    """
    chosen = Selection()
    for name in (name for name in KINDS if not request.only or name in request.only):
        chosen.analyses |= {kind: [] for kind in KINDS[name]}
    if not pictures and chosen.analyses.pop("features", None) is not None:
        chosen.notes.append("the data are not images: no frequency bands")
    if target is None:
        chosen.analyses.pop("transfer", None)
    usable = stages[stages["stage"].isin(with_state)]
    _note_lost(stages, usable, chosen)
    if (stages["experiment"] == CHAIN).all():
        rates = " (low and high are of a grid's FLR)" if request.low or request.high else ""
        chosen.notes.append(f"chains of legs: every end is measured, and no pair of them{rates}")
        ends, labels = _every_end(usable), dict(zip(usable["stage"], usable["path"], strict=True))
    else:
        low, high = _ends(usable, request, chosen)
        k = _average(usable, request, chosen)
        ends, labels = _ends_by_cell(usable, {"low": low, "high": high}, k), {}
    if "angles" in chosen.analyses:
        for seed, rows in usable.groupby("seed", sort=True):
            ids = tuple(rows["stage"])
            label = f"angles between {len(ids)} stages of seed {seed}"
            chosen.analyses["angles"].append(Analysis("angles", ids, {}, int(str(seed)), label))
    if "lines" in chosen.analyses:
        chosen.analyses["lines"] = [
            path_between(f"{a}-{b}", (found[a], found[b]), plr, seed, request.points)
            for (seed, plr), found in ends
            for a, b in (("low", "high"), ("swa", "low"), ("swa", "high"))
            if a in found and b in found
        ]
    ends_and_average = ("pretrain", "low", "high", "swa", "leg")
    for kind, names, settings in (
        ("norms", ("pretrain", "low", "high", "leg"), {}),
        ("sharpness", ends_and_average, asdict(HessianSettings())),
        ("features", ends_and_average, {}),
        ("transfer", ends_and_average, target.settings() if target else {}),
    ):
        if kind in chosen.analyses:
            chosen.analyses[kind] = [
                Analysis(
                    kind,
                    (found[name],),
                    settings,
                    seed,
                    f"{kind} {labels.get(found[name], f'{name} plr {plr:g}')} seed {seed}",
                    target if kind == "transfer" else None,
                )
                for (seed, plr), found in ends
                for name in names
                if name in found
            ]
    return chosen


Ends = list[tuple[tuple[int, float], dict[str, str]]]
"""Seed and PLR, and the stages that belong together, by what they count as."""


def _every_end(stages: pd.DataFrame) -> Ends:
    """Every leg of chains, and every average, by itself."""
    return [
        ((int(row["seed"]), float(row["plr"])), {name: str(row["stage"])})
        for row in stages.sort_values(["seed", "depth", "path"], kind="stable").to_dict("records")
        for name in ("swa" if row["kind"] == "swa" else "leg",)
    ]


def _ends_by_cell(stages: pd.DataFrame, rates: dict[str, float | None], k: int | None) -> Ends:
    """By seed and PLR: the stages that count as pretrain, low, high and swa."""
    ends: dict[tuple[int, float], dict[str, str]] = {}
    for row in stages.sort_values(["seed", "plr"], kind="stable").to_dict("records"):
        names = [row["kind"]] if row["kind"] == "pretrain" else []
        if row["kind"] == "finetune":
            names = [name for name, rate in rates.items() if row["flr"] == rate]
        if row["kind"] == "swa" and row["k"] == k:
            names = ["swa"]
        cell = ends.setdefault((int(row["seed"]), float(row["plr"])), {})
        cell |= {name: str(row["stage"]) for name in names}
    return list(ends.items())


def _ends(
    stages: pd.DataFrame, request: Request, chosen: Selection
) -> tuple[float | None, float | None]:
    """The low and the high FLR; None for one that there is not."""
    rates = sorted({float(rate) for rate in stages["flr"].dropna()})
    asked = [math.nan if rate is None else canonical(rate) for rate in (request.low, request.high)]
    low = next((rate for rate in rates if canonical(rate) == asked[0]), None)
    high = next((rate for rate in rates if canonical(rate) == asked[1]), None)
    low = rates[0] if request.low is None and rates else low
    high = rates[-1] if request.high is None and rates else high
    if not rates:
        chosen.notes.append("no fine-tuned stage has a state: no pairs of end points")
    elif low is not None and low == high:
        what = "the only FLR is" if len(rates) == 1 else "low and high FLR are both"
        chosen.notes.append(f"{what} {low:g}: no low-high pairs")
        return low, None
    for name, rate in (("low", low), ("high", high)):
        if rates and rate is None:
            listing = ", ".join(f"{r:g}" for r in rates)
            chosen.notes.append(f"no stages at the {name} FLR asked for: there are {listing}")
    return low, high


def _average(stages: pd.DataFrame, request: Request, chosen: Selection) -> int | None:
    """The k of the averages: the largest that is not above what was asked for."""
    counts = sorted(int(k) for k in stages["k"].dropna().unique())
    fitting = [k for k in counts if k <= request.k]
    if not fitting:
        there = f", only of {', '.join(map(str, counts))}" if counts else ""
        chosen.notes.append(f"no averages of {request.k} or fewer checkpoints{there}: left out")
        return None
    if fitting[-1] != request.k:
        chosen.notes.append(
            f"no averages of k = {request.k} checkpoints: those of {fitting[-1]} are taken"
        )
    return fitting[-1]


def _note_lost(stages: pd.DataFrame, usable: pd.DataFrame, chosen: Selection) -> None:
    lost = stages[~stages["stage"].isin(usable["stage"])]
    if len(lost):
        rates = ", ".join(f"{rate:g}" for rate in sorted(lost["plr"].unique()))
        chosen.notes.append(
            f"left out: {len(lost)} stages that ended without a network (PLR {rates})"
        )
