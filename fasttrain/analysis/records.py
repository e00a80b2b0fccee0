"""Analyses as records of the store: each made once, found again by what it is of.

    <store>/analyses/<id>/stage.json     what is analysed: kind, settings, stages in order, versions
    <store>/analyses/<id>/<table>.parquet   its rows of each table
    <store>/analyses/<id>/done.json      digests, written last
    <store>/analyses/current.json        by set-up: the records that its figures are drawn from

An identity is the hash of stage.json. One store holds analyses at several settings (of other
fine-tuning rates, say); `current.json` names those that the last `fasttrain analyse` chose.
"""

import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from ..machine.files import json_bytes, parquet, write_atomically
from ..plan.identity import digest, torch_version
from ..store.json_files import read_json
from ..store.schema import Current
from ..store.store import CURRENT, Store
from .tables import TABLES, empty
from .target import Target

ANALYSIS = 1
"""Raised by every change of this package that changes the numbers of an analysis."""
LARGEST = "angles"
"""the table that has a row for every two stages of a seed: millions, where others have thousands"""


@dataclass(frozen=True)
class Analysis:
    """One thing to know of finished stages. `stages` are their ids, in the order that matters."""

    kind: str
    stages: tuple[str, ...]
    settings: Mapping[str, Any] = field(hash=False)
    seed: int = field(compare=False)
    title: str = field(compare=False)
    target: Target | None = field(default=None, compare=False)
    """where the images are that features are transferred to; `settings` say which they are"""

    def label(self) -> str:
        """What it is of, in a few words."""
        return self.title

    def description(self) -> dict[str, Any]:
        """What stage.json holds."""
        return {
            "kind": self.kind,
            "stages": list(self.stages),
            "settings": dict(self.settings),
            "versions": {"analysis": ANALYSIS, "torch": torch_version()},
        }

    @functools.cached_property
    def id(self) -> str:
        """The analysis's identity: 16 hexadecimal digits."""
        return digest(self.description())


def is_done(analysis: Analysis, store: Store) -> bool:
    """Whether the store holds the analysis."""
    return store.analyses.summary(analysis.id) is not None


def save(
    analysis: Analysis,
    tables: Mapping[str, pd.DataFrame],
    provenance: Mapping[str, Any],
    store: Store,
) -> None:
    """Put the rows of an analysis into the store."""
    store.analyses.begin(analysis.id, analysis.description())
    files = {f"{name}.parquet": parquet(table) for name, table in tables.items()}
    store.analyses.finish(analysis.id, files, {"state": "done", "provenance": dict(provenance)})


def load(analysis: Analysis, table: str, store: Store) -> pd.DataFrame:
    """The rows of a table of an analysis that is done."""
    return pd.read_parquet(io.BytesIO(store.analyses.read(analysis.id, f"{table}.parquet")))


def choose(chosen: Mapping[str, Mapping[str, Sequence[Analysis]]], store: Store) -> None:
    """Say which analyses are the current ones, by set-up and kind; other kinds stay as they are.

    Set-ups that are not given are forgotten: they are in the store no more.
    """
    before = current(store)
    content = {
        # A set-up gets its length of fine-tuning into its name when there is a second one.
        setup: (before.get(setup) or before.get(setup.split("-")[0], {}))
        | {kind: [analysis.id for analysis in members] for kind, members in kinds.items()}
        for setup, kinds in chosen.items()
    }
    store.analyses.path.mkdir(exist_ok=True)
    write_atomically(store.analyses.path / CURRENT, json_bytes(content))


def add_choices(others: Sequence[Mapping[str, Mapping[str, Sequence[str]]]], store: Store) -> None:
    """Let what is current in others, as `current` says, be so in a store that holds it too."""
    before = current(store)
    content = {setup: dict(kinds) for setup, kinds in before.items()}
    for chosen in others:
        for setup, kinds in chosen.items():
            own = content.setdefault(setup, {})
            for kind, ids in kinds.items():
                there = [analysis for analysis in ids if store.analyses.is_finished(analysis)]
                own[kind] = list(dict.fromkeys([*own.get(kind, ()), *there]))
    if content != before:
        store.analyses.path.mkdir(exist_ok=True)
        write_atomically(store.analyses.path / CURRENT, json_bytes(content))


def load_analyses(store: str | Path) -> dict[str, pd.DataFrame]:
    """The measurements of `fasttrain analyse` as tables, by name (`fasttrain.analysis.tables`).

    pairs, paths, angles, norms, histograms, sharpness, eigenvalues, bands and transfer; empty if
    not measured. Angles are in rad, accuracies and their barriers in [0, 1].

    Raises:
        EnvironmentProblem: not a store, or a damaged file in it.
    """
    tables = compact_analyses(store)
    return tables | {LARGEST: tables[LARGEST].astype(empty(LARGEST).dtypes)}


def compact_analyses(store: str | Path) -> dict[str, pd.DataFrame]:
    """As `load_analyses`, with the stages of `LARGEST` as categories: a fifth of the memory."""
    opened = Store.open(Path(store), create=False)
    ids = dict.fromkeys(
        analysis
        for kinds in current(opened).values()
        for members in kinds.values()
        for analysis in members
    )
    parts: dict[str, list[pyarrow.Table]] = {name: [] for name in TABLES}
    for analysis in ids:
        summary = opened.analyses.summary(analysis)
        for name, tables in parts.items():
            if summary is not None and f"{name}.parquet" in summary["files"]:
                data = opened.analyses.read(analysis, f"{name}.parquet")
                file = pyarrow.parquet.ParquetFile(
                    pyarrow.BufferReader(data),
                    read_dictionary=["stage_a", "stage_b"] if name == LARGEST else None,
                )
                # Thousands of small ones, for which threads are no help.
                tables.append(file.read(use_threads=False))
    joined = {name: _joined(name, parts.pop(name)) for name in TABLES}
    # What arrow has freed it holds on to.
    pyarrow.default_memory_pool().release_unused()
    return joined


def _joined(name: str, parts: Iterable[pyarrow.Table]) -> pd.DataFrame:
    nothing = empty(name)
    filled = [part for part in parts if part.num_rows]
    if not filled:
        return nothing
    table = pyarrow.concat_tables(filled, promote_options="permissive").unify_dictionaries()
    whole = table.to_pandas()
    # Records of an earlier package may have columns that stand elsewhere now, and lack others.
    whole = whole.reindex(columns=list(nothing))
    kept = [str(name) for name in nothing if isinstance(whole[name].dtype, pd.CategoricalDtype)]
    types = nothing.dtypes.drop(kept)
    # Set-ups that share a pre-training share angles between its averages.
    return _distinct(whole.astype(types), kept)


def _distinct(table: pd.DataFrame, categories: Sequence[str]) -> pd.DataFrame:
    """Each row once.

    Args:
        categories: columns that tell most rows apart, which takes less memory than comparing all.
    """
    if not categories:
        return table.drop_duplicates(ignore_index=True)
    key = np.zeros(len(table), dtype=np.int64)
    for name in categories:
        key = key * len(table[name].cat.categories) + table[name].cat.codes.to_numpy()
    ordered = np.sort(key)
    alike = np.isin(key, ordered[1:][ordered[1:] == ordered[:-1]])
    repeated = alike.copy()
    repeated[alike] = table[alike].duplicated()
    return table[~repeated].reset_index(drop=True) if repeated.any() else table


def current(store: Store) -> dict[str, dict[str, list[str]]]:
    """Ids of the analyses that figures are drawn from, by set-up and kind.

    Raises:
        EnvironmentProblem: the list of them is damaged.
    """
    path = store.analyses.path / CURRENT
    if not path.exists():
        return {}
    return read_json(path, Current, f"delete {path} and run fasttrain analyse again")
