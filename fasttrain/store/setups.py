"""The stages of a store by set-up: what a report draws as one grid, or as chains."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .columns import COLUMNS, PASS_COLUMNS
from .curves import measured_epochs
from .tables import CHAIN, Finished, finished, in_order, stage_table


class Setups(NamedTuple):
    """What a report draws. Here a set-up has one way of fine-tuning: one figure, one grid.

    A pre-training that serves two lengths, starts with and without the optimiser's state, or serves
    a grid and a chain of legs, has a row in both set-ups.
    """

    stages: pd.DataFrame
    configurations: dict[str, dict[str, Any]]


def load_setups(store: str | Path, found: Sequence[Finished] | None = None) -> Setups:
    """The table of `load` by grid, and the configuration of each grid.

    That names a cadence of test passes only where all stages have the same.

    The store is looked at once, as a sweep may be finishing stages; `found` is such a look.
    """
    found = finished(store) if found is None else found
    configurations = {
        setup: last.configuration() for setup, last in {f.setup: f for f in found}.items()
    }
    cadences = {(f.setup, *f.cadence.values()) for f in found}
    for setup, number in Counter(setup for setup, _ in cadences).items():
        if number > 1:
            del configurations[setup]["training"]["evaluate_every"]
    table = _with_ancestors(stage_table(found), found)
    parts, named = [table.iloc[:0]], {}
    for setup, rows in table.groupby("setup", sort=False):
        # A chain has all lengths of its legs in one set-up.
        tuned = (rows["kind"] == "finetune") & (rows["experiment"] != CHAIN)
        found_ways = rows.loc[tuned, ["epochs", "inherit"]].drop_duplicates()
        ways = sorted((int(length), str(way)) for length, way in found_ways.to_numpy())
        for length, inherit in ways or [(None, None)]:
            name = str(setup)
            if len(ways) > 1:
                name += f"-{length}" + ("-optimizer" if inherit == "optimizer" else "")
            same = (rows["epochs"] == length) & (rows["inherit"] == inherit)
            parts.append(rows[~tuned | same].assign(setup=name))
            configuration = configurations[str(setup)]
            tuning = {"finetune_epochs": length, "inherit": inherit}
            if configuration["experiment"]["kind"] == CHAIN:
                tuning = {}
            training = {**configuration["training"], **tuning}
            named[name] = {**configuration, "training": training}
    return Setups(pd.concat(parts, ignore_index=True), named)


def curves(store: str | Path, found: Sequence[Finished], stages: pd.DataFrame) -> pd.DataFrame:
    """One row per epoch of the stages of one set-up, in the order of their rows.

    Columns: stage (a category), plr, seed, epoch, and the scores of `load_epochs`; what else is
    known of a stage stands in its row.
    """
    by_id = {f.stage: f for f in found}
    columns = ("epoch", *COLUMNS, *PASS_COLUMNS)
    mine = [by_id[stage] for stage in stages["stage"]]
    measured = measured_epochs(store, mine, columns)
    if measured.empty:
        return pd.DataFrame(columns=["stage", "plr", "seed", "epoch", *COLUMNS])
    ids = measured["stage"].cat
    known = stages.set_index("stage").loc[ids.categories]
    rates = {name: known[name].to_numpy()[ids.codes] for name in ("plr", "seed")}
    names = [name for name in columns if name in COLUMNS or name in measured]
    return measured.reindex(columns=["stage", "epoch", *names[1:]]).assign(**rates)


def _with_ancestors(table: pd.DataFrame, found: Sequence[Finished]) -> pd.DataFrame:
    """The table with every stage in the set-ups of all that started from it, too."""
    by_id = {f.stage: f for f in found}
    missing = set()
    for f in found:
        above = by_id.get(f.about["parent"] or "")
        while above is not None:
            if above.setup != f.setup:
                missing.add((above.stage, f.setup, f.experiment))
            above = by_id.get(above.about["parent"] or "")
    if not missing:
        return table
    columns = ["stage", "setup", "experiment"]
    others = pd.DataFrame(sorted(missing), columns=columns)
    added = table.drop(columns=columns[1:]).merge(others, on="stage")[table.columns]
    return in_order(pd.concat([table, added], ignore_index=True))
