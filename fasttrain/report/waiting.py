"""What the plan of a store asks for and is not finished: the stages that a verdict waits for."""

from collections.abc import Sequence

import pandas as pd

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.seed_means import number

_KINDS = {"pretrain": "pre-training", "finetune": "fine-tuning", "swa": "averaging"}
MOST_NAMED = 6
"""learning rates that are listed one by one"""


def waited_for(results: SetupResults) -> pd.DataFrame:
    """The rows of `grid.planned` that are not finished; none where no plan is known."""
    if results.planned is None:
        return pd.DataFrame(columns=["stage", "kind", "plr", "flr", "k", "seed"])
    return results.planned[~results.planned["stage"].isin(results.stages["stage"])]


def complete_seeds(stages: pd.DataFrame, waiting: pd.DataFrame) -> pd.DataFrame:
    """The rows of the seeds that wait for nothing."""
    return stages[~stages["seed"].isin(waiting["seed"])]


def waiting_words(waiting: pd.DataFrame) -> str:
    """ "3 stages: pre-training at PLR 0.1 (1), fine-tuning at PLR 0.02, 0.1 (2)"."""
    parts = []
    for kind, words in _KINDS.items():
        rows = waiting[waiting["kind"] == kind]
        if len(rows):
            parts.append(f"{words} at PLR {rates_words(rows['plr'])} ({len(rows)})")
    count = len(waiting)
    return f"{count} stage{'' if count == 1 else 's'}: {', '.join(parts)}"


def rates_words(rates: Sequence[float] | pd.Series) -> str:
    """Rates in ascending order, each once: all of them, or the first and the last of many."""
    names = list(dict.fromkeys(number(rate) for rate in sorted(rates)))
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{names[0]} to {names[-1]}"
