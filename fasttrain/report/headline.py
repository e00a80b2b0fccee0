"""What a grid found, in sentences: the best result and whether it was worth it, the regimes."""

import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.best import best_sentences
from fasttrain.report.seed_means import number
from fasttrain.report.waiting import rates_words, waited_for, waiting_words
from fasttrain.settings.optimizers.kinds import KINDS
from fasttrain.training.chance import ENDS

REGIME_NAMES = {
    "1": "regime 1 (convergence)",
    "2": "regime 2 (chaotic equilibrium)",
    "2A": "regime 2A (chaotic equilibrium, one basin)",
    "2B": "regime 2B (chaotic equilibrium, no common basin)",
    "3": "regime 3 (divergence)",
}


def headline(results: SetupResults, regimes: pd.DataFrame, bounds: pd.DataFrame) -> list[str]:
    """The regimes' boundaries, the best result, its distance from the best small rate, the count.

    Verdicts are of the seeds of which all is finished that `grid.planned` asks for; without such a
    seed they wait, and say for what.
    `regimes` and `bounds` are what `fasttrain.analysis.regimes` makes of the grid.
    Raises ValueError if the stages belong to several set-ups.
    """
    stages = results.stages
    if stages.empty:
        return ["No stage has finished yet."]
    ends = {state: int((stages["state"] == state).sum()) for state in ENDS}
    count = f"Stages: {', '.join(f'{number} {state}' for state, number in ends.items())}."
    waiting = waited_for(results)
    if results.planned is None:
        count += " Plan unknown: these stages may not be the whole grid."
    elif len(waiting):
        count += f" Not finished: {waiting_words(waiting)}."
    by_plr = regime_by_plr(regimes)
    return [
        *_rate_sentences(results.configuration.get("optimizer", {})),
        *best_sentences(stages, by_plr, waiting, results.configuration.get("num_test")),
        *_regime_sentences(by_plr, regimes, bounds, waiting),
        count,
    ]


def _rate_sentences(optimizer: Mapping[str, Any]) -> list[str]:
    """What the learning rates are, if they are not effective ones."""
    kind = optimizer.get("kind", "sphere")
    if KINDS[kind].rate == "effective":
        return []
    options = ", ".join(f"{name} {value}" for name, value in optimizer.items() if name != "kind")
    return [f"Learning rates (PLR, FLR) are raw rates of {kind} ({options}), not effective ones."]


def regime_by_plr(regimes: pd.DataFrame) -> dict[float, str]:
    """The regime of each PLR, in ascending order; where seeds differ, all of theirs: "1/2A"."""
    found: dict[float, set[str]] = {}
    for row in regimes.sort_values("plr").to_dict("records"):
        found.setdefault(row["plr"], set()).add(row["regime"])
    return {plr: "/".join(sorted(names)) for plr, names in found.items()}


def regime_in_words(regime: str) -> str:
    """The words for a value of `regime_by_plr` that is not just "undecided"."""
    return REGIME_NAMES.get(regime, f"regime {regime}, by seed")


def _regime_sentences(
    by_plr: dict[float, str], regimes: pd.DataFrame, bounds: pd.DataFrame, waiting: pd.DataFrame
) -> list[str]:
    seen = {plr: set(names.split("/")) & REGIME_NAMES.keys() for plr, names in by_plr.items()}
    decided = sorted(set().union(*seen.values()))
    roots = waiting[waiting["kind"] == "pretrain"]
    others = f"others wait for pre-training at PLR {rates_words(roots['plr'])}"
    if not by_plr:
        return ["Regimes: unknown until a pre-training has finished."]
    if not decided:
        reason = regimes.iloc[0]["reason"]
        if str(reason).startswith("not judged"):
            return [f"Regimes are {reason}."]
        return [f"Regimes: none of {len(by_plr)} PLRs is decided; for instance, {reason}"]
    if len(by_plr) == 1:
        ((plr, name),) = by_plr.items()
        found = regime_in_words(name)
        missing = others if len(roots) else "boundaries need more PLRs"
        return [f"Regimes: the only PLR, {number(plr)}, is in {found}; {missing}."]
    if len(decided) == 1:
        plrs = [plr for plr, names in seen.items() if names]
        low, high = number(min(plrs)), number(max(plrs))
        where = f"at PLR {low}" if low == high else f"between PLR {low} and {high}"
        start = f"Regimes: every decided run, {where}, is in {REGIME_NAMES[decided[0]]}"
        if len(roots):
            return [f"{start}; {others}."]
        return [
            f"{start}, so no boundary lies among them; other regimes need "
            f"{'larger' if decided[0] == '1' else 'other'} learning rates."
        ]
    rows = bounds.to_dict("records")
    if decided == ["1", "3"]:
        # Both boundaries of what was not seen are where these two meet.
        first = next(row for row in rows if row["boundary"] == "1|2")
        unseen = f"no run is in {REGIME_NAMES['2']}, which can only lie between"
        note = "; ".join(filter(None, [first["note"], unseen]))
        rows = [{**first, "boundary": "1|3", "note": note}]
    return [_boundary_sentence(row, waiting) for row in rows]


def _boundary_sentence(row: Mapping[Any, Any], waiting: pd.DataFrame) -> str:
    before, after = (REGIME_NAMES[name] for name in row["boundary"].split("|"))
    note = str(row["note"]).strip().rstrip(".")
    # 2A and 2B are told by what is fine-tuned, the others by pre-training alone.
    kinds = ["pretrain", *(["finetune"] if row["boundary"] == "2A|2B" else [])]
    needed = waiting[waiting["kind"].isin(kinds)]
    if math.isnan(row["plr"]) and len(needed):
        return f"Boundary {row['boundary']}: not known yet, it waits for {waiting_words(needed)}."
    if re.search("no run is 2[AB]", note):
        return f"Boundary {row['boundary']}: not seen ({note})."
    if math.isnan(row["plr"]):
        return f"Boundary {row['boundary']}: not known{f': {note}' if note else ''}."
    seeds = int(row["num_seeds"])
    between = needed[(needed["plr"] > row["low"]) & (needed["plr"] < row["high"])]
    notes = [note, f"it may narrow with {waiting_words(between)}" if len(between) else ""]
    return (
        f"Boundary {row['boundary']}: {before} gives way to {after} at a PLR of about "
        f"{number(row['plr'])}, between {number(row['low'])} and {number(row['high'])} "
        f"({seeds} seed{'s' if seeds > 1 else ''}){''.join(f'; {n}' for n in notes if n)}."
    )
