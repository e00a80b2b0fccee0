"""The regimes of a grid: of every pre-training run, and where over PLR they meet.

    1 convergence | 2A | 2B chaotic equilibrium | 3 divergence      with growing PLR

`rules` judges a run by its curves, and an equilibrium by its fine-tuned end points. Here are the
tables, and the reading over PLR, which takes the regimes to follow one another in this order: an
isolated run that does not fit is named in a note, and moves no boundary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..training.chance import NON_FINITE
from .end_points import EndPoints, last_finite
from .rules import Curves, Verdict, converged_epoch, judge
from .tables import SetupResults

EQUILIBRIA = {"2", "2A", "2B"}
BELOW: dict[str, tuple[set[str], set[str]]] = {
    "1|2": ({"1"}, EQUILIBRIA | {"3"}),
    "2A|2B": ({"1", "2A"}, {"2B", "3"}),
    "2|3": (EQUILIBRIA | {"1"}, {"3"}),
}
"""Of every boundary, the regimes below it and above it; others cannot tell."""

COLUMNS = {"stage": "str", "plr": "float64", "seed": "int64", "regime": "str", "reason": "str"}
COLUMNS |= dict.fromkeys(("train_loss", "grad_norm", "step_angle", "converged_epoch"), "float64")
BOUNDARY_COLUMNS = {"boundary": "str"} | dict.fromkeys(("plr", "low", "high", "ratio"), "float64")
BOUNDARY_COLUMNS |= {"num_seeds": "int64", "note": "str"}


def classify(results: SetupResults) -> pd.DataFrame:
    """One row per finished pre-training, by PLR and seed.

    Columns: stage, plr, seed, regime (1, 2A, 2B, 2 if A or B cannot be told, 3, undecided), reason
    (one sentence), train_loss, grad_norm (of the last epoch), step_angle (rad, of that),
    converged_epoch (the first with a training loss below 1e-2, or NaN).
    """
    runs = results.stages[results.stages["kind"] == "pretrain"].sort_values(["plr", "seed"])
    if results.configuration.get("experiment", {}).get("kind") == "chain":
        # First legs of several lengths and knobs are no row of PLRs: `first_legs`.
        runs = runs.iloc[:0]
    return _judged(results, runs, EndPoints(results).subregime)


def first_legs(results: SetupResults) -> pd.DataFrame:
    """As `classify`, of every finished first leg of chains, whatever its length and knobs.

    A and B are not told apart: that takes fine-tunings of one start at two FLRs.
    """
    runs = results.stages[results.stages["kind"] == "pretrain"].sort_values(["plr", "seed"])
    return _judged(results, runs, lambda run: Verdict("2", "only grids tell A from B"))


def _judged(
    results: SetupResults, runs: pd.DataFrame, halved: Callable[[dict], Verdict]
) -> pd.DataFrame:
    withheld = not_judged(results.configuration)
    epochs = results.epochs
    epochs = epochs[epochs["stage"].isin(runs["stage"])]
    by_stage = dict(iter(epochs.groupby("stage", observed=True)))
    rows = []
    for run in runs.to_dict("records"):
        curves = curves_of(run, by_stage.get(run["stage"]), results.configuration)
        reason = withheld or _beside_the_rate(run)
        verdict = Verdict("undecided", reason) if reason else judge(curves)
        if verdict.regime == "2":
            half = halved(run)
            verdict = Verdict(half.regime, f"{verdict.reason}; {half.reason}")
        rows.append(
            {name: run[name] for name in ("stage", "plr", "seed")}
            | {"regime": verdict.regime, "reason": verdict.reason}
            | {"train_loss": last_finite(curves.loss), "grad_norm": last_finite(curves.grad_norm)}
            | {"step_angle": math.nan if withheld else last_finite(curves.step_angle())}
            | {"converged_epoch": converged_epoch(curves.loss)}
        )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _beside_the_rate(run: dict) -> str:
    """Why the rules do not hold for a run; empty if they do."""
    noise = run.get("noise")
    return "not judged: the rules do not cover noise on activations" if noise and noise > 0 else ""


def not_judged(configuration: Mapping[str, Any]) -> str:
    """Why the rules do not hold for a setting; empty if they do.

    They read angles of steps on one sphere, or with equal norms on spheres that share one raw rate,
    and losses in units of a cross-entropy.
    """
    optimizer = configuration.get("optimizer", {})
    kind, scope = optimizer.get("kind", "sphere"), optimizer.get("scope", "joint")
    if kind != "sphere":
        return f"not judged: the rules are in units of the sphere, and the optimiser is {kind}"
    if scope not in ("joint", "equal-norms"):
        return f"not judged: the rules need one joint sphere, and every {scope} has its own"
    practical = configuration.get("network", {}).get("form", "scale-invariant") == "practical"
    if practical or optimizer.get("free_lr") is not None:
        return "not judged: the rules cover the sphere only, and other parameters train beside it"
    loss = configuration.get("training", {}).get("loss", "cross-entropy")
    if loss == "squared":
        return "not judged: the rules' thresholds hold for cross-entropy, and the loss is squared"
    return ""


def curves_of(run: dict, epochs: pd.DataFrame | None, configuration: dict) -> Curves:
    """The curves of a pre-training.

    Args:
        run: its plr, state and stopped.
        epochs: a row per epoch of it; None if it has none.
        configuration: of its grid.
    """
    table = pd.DataFrame() if epochs is None else epochs.sort_values("epoch")
    if len(table):
        # Earlier versions counted no balanced accuracy.
        balanced = table["train_balanced_accuracy"].fillna(table["train_accuracy"])
        table = table.assign(train_balanced_accuracy=balanced)
    names = ("train_loss", "train_balanced_accuracy", "grad_norm")
    series = [table[n].to_numpy(float) if n in table else np.empty(0) for n in names]
    num_train, training = configuration.get("num_train"), configuration["training"]
    steps = training.get("steps")
    if steps is None:
        steps = math.nan if num_train is None else math.ceil(num_train / training["batch_size"])
    return Curves(
        run["plr"],
        *series,
        steps_per_epoch=steps,
        num_classes=configuration["num_classes"],
        guess_loss=configuration["guess_loss"],
        lost=run["state"] == NON_FINITE,
        stopped=bool(run["stopped"]),
    )


def _repetition(regimes: pd.DataFrame) -> pd.Series:
    """Which runs to read a boundary off together: those of a seed, or all of one run per PLR."""
    several = regimes.groupby("seed")["plr"].nunique().gt(1).any()
    return regimes["seed"] if several else 0 * regimes["seed"]


def boundaries(regimes: pd.DataFrame) -> pd.DataFrame:
    """Where the regimes of a grid meet, from `classify`'s table: rows 1|2, 2A|2B, 2|3.

    Columns: boundary, plr (geometric middle of the bracket), low, high (bracket over all seeds),
    ratio (high/low), num_seeds (that have one; 1 where every PLR has a seed of its own), note (why
    it is unknown or uncertain, or "").
    """
    rows = []
    for name in BELOW:
        found = [
            read(name, list(zip(runs["plr"], runs["regime"], strict=True)))
            for _, runs in regimes.groupby(_repetition(regimes))
        ]
        row = _merged(name, found)
        if name == "2A|2B" and row["num_seeds"]:
            missing = sorted({"2A", "2B"} - set(regimes["regime"]))
            notes = [str(row["note"]), *(f"no run is {regime}" for regime in missing)]
            row["note"] = "; ".join(note for note in notes if note)
        rows.append(row)
    return pd.DataFrame(rows, columns=list(BOUNDARY_COLUMNS)).astype(BOUNDARY_COLUMNS)


def shades(regimes: pd.DataFrame) -> list[tuple[str, float, float]]:
    """(regime, from PLR, to PLR) for the background of figures; gaps where runs are undecided.

    A PLR is of the regime that all its decided runs have; neighbours of two regimes meet halfway.
    """
    known: list[tuple[float, str]] = []
    for plr, runs in regimes.groupby("plr"):
        names = {str(name) for name in runs["regime"]} - {"undecided"}
        if len(names) > 1 and names <= EQUILIBRIA:
            names = {"2"}
        known.append((float(str(plr)), names.pop() if len(names) == 1 else ""))
    spans: list[tuple[str, float, float]] = []
    for index, (plr, regime) in enumerate(known):
        if not regime:
            continue
        before = known[index - 1] if index else (plr, "")
        after = known[index + 1] if index + 1 < len(known) else (plr, "")
        low, high = (math.sqrt(plr * other) if name else plr for other, name in (before, after))
        if spans and spans[-1][0] == regime and spans[-1][2] == low:
            low = spans.pop()[1]
        if high > low:
            spans.append((regime, low, high))
    return spans


class Cut(NamedTuple):
    """A boundary in one seed's runs: the PLRs on both sides of it, NaN where there is none."""

    low: float
    high: float
    misfits: tuple[tuple[float, str], ...]
    """runs (PLR, regime) on the wrong side"""
    untold: tuple[float, ...]
    """PLRs between low and high of runs that cannot tell; beyond the known side if one is NaN"""

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def cut(boundary: str, runs: Sequence[tuple[float, str]]) -> Cut:
    """The boundary that puts the fewest runs (PLR, regime) of a seed on the wrong side.

    Of equally good ones the lowest: the range above its first exception is no longer the regime's.
    """
    below, above = BELOW[boundary]
    told = sorted((plr, name, name in above) for plr, name in runs if name in below | above)
    wrong = [
        sum(is_above for *_, is_above in told[:at]) + sum(not a for *_, a in told[at:])
        for at in range(len(told) + 1)
    ]
    at = int(np.argmin(wrong))
    misfits = [(p, n) for i, (p, n, is_above) in enumerate(told) if is_above != (i >= at)]
    lows = [plr for plr, _, is_above in told[:at] if not is_above]
    highs = [plr for plr, _, is_above in told[at:] if is_above]
    low, high = max(lows, default=math.nan), min(highs, default=math.nan)
    # A side that is missing bounds nothing: no comparison with NaN holds.
    between = [plr for plr, name in runs if name not in below | above]
    untold = [plr for plr in between if not plr <= low and not plr >= high]
    return Cut(low, high, tuple(misfits), tuple(sorted(untold)))


def read(boundary: str, runs: Sequence[tuple[float, str]]) -> Cut:
    """As `cut`; but what lies between 1 and 3 is no 2A|2B if nothing there is told to be either."""
    if boundary == "2A|2B" and not any(name in ("2A", "2B") for _, name in runs):
        return Cut(math.nan, math.nan, (), ())
    return cut(boundary, runs)


def _merged(name: str, found: Sequence[Cut]) -> dict[str, object]:
    """One boundary over all seeds."""
    known = [c for c in found if c.known]
    low = min((c.low for c in known), default=math.nan)
    high = max((c.high for c in known), default=math.nan)
    notes = [] if known else [_unknown(name, found)]
    if known and len(known) < len(found):
        notes.append(f"{len(found) - len(known)} of {len(found)} seeds do not show it")
    untold = sorted({plr for c in known for plr in c.untold})
    if untold:
        notes.append(f"cannot be told at PLR {', '.join(f'{plr:g}' for plr in untold)}")
    odd = sorted({misfit for c in found for misfit in c.misfits})
    notes += [f"out of order: PLR {plr:g} is {regime}" for plr, regime in odd[:3]]
    notes += [f"{len(odd) - 3} more out of order"] if odd[3:] else []
    return {
        "boundary": name,
        "plr": math.sqrt(low * high),
        "low": low,
        "high": high,
        "ratio": high / low,
        "num_seeds": len(known),
        "note": "; ".join(notes),
    }


def _unknown(name: str, found: Sequence[Cut]) -> str:
    lows = [c.low for c in found if math.isfinite(c.low)]
    highs = [c.high for c in found if math.isfinite(c.high)]
    if not lows and not highs:
        return "no end points tell 2A from 2B" if name == "2A|2B" else "no run is decided"
    if lows and highs:
        return f"seeds disagree: above PLR {max(lows):g} in some, below {min(highs):g} in others"
    untold = sorted({plr for c in found for plr in c.untold})
    place = f"below PLR {min(highs):g}" if highs else f"above PLR {max(lows):g}"
    if untold:
        return f"it is {place}; cannot be told at PLR {', '.join(f'{plr:g}' for plr in untold)}"
    return f"no run {'below' if highs else 'above'} it: it is {place}"
