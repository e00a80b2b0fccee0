"""The tables of epochs of finished stages, one below the other: each file is read once.

A large store has tens of thousands of them, of a few rows each, so that what opening one costs is
what all cost: only the columns that are asked for are decoded, by one thread.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .entries import METRICS
from .store import Store

if TYPE_CHECKING:
    from .tables import Finished

BATCH = 500
"""small tables that are kept apart: each takes some memory beside its values"""


def measured_epochs(
    store: str | Path, found: "Sequence[Finished]", columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """The tables of epochs of these stages, one below the other, with their ids as `stage`.

    Args:
        columns: those to read, of the tables that have them, and then ids are categories; all if
            not given.
    """
    opened = Store.open(Path(store), create=False)
    lengths: list[int] = []
    whole = _joined(_batches(_tables(opened, found, columns, lengths)))
    if whole is None:
        return pd.DataFrame(columns=["stage"])
    table = whole.to_pandas(split_blocks=True, self_destruct=True)
    # Not kept twice: what arrow has freed it holds on to.
    del whole
    pa.default_memory_pool().release_unused()
    names = sorted({f.stage for f in found})
    places = {name: place for place, name in enumerate(names)}
    codes = np.repeat(np.array([places[f.stage] for f in found], dtype=np.int32), lengths)
    stages = pd.Categorical.from_codes(codes, pd.Index(names, dtype="str"))
    return table.assign(stage=stages if columns else pd.Series(stages).astype("str"))


def _tables(
    store: Store, found: "Iterable[Finished]", columns: Sequence[str] | None, lengths: list[int]
) -> Iterator[pa.Table]:
    """The tables that have a row; `lengths` gets those of all."""
    for f in found:
        content = pa.BufferReader(store.content(f.stage, METRICS, f.done))
        # Columns that it has not are left out.
        table = pq.ParquetFile(content).read(columns, use_threads=False)
        lengths.append(len(table))
        if len(table):
            # What pandas noted is the same for all, and would be compared.
            yield table.replace_schema_metadata(None)


def _batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    batch = []
    for table in tables:
        batch.append(table)
        if len(batch) == BATCH:
            yield _concatenated(batch).combine_chunks()
            batch = []
    yield from batch


def _joined(tables: Iterable[pa.Table]) -> pa.Table | None:
    parts = list(tables)
    return _concatenated(parts) if parts else None


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    # Numbers alone: what is missing of a stage would take the type of a column with it.
    return pa.concat_tables(tables, promote_options="permissive")
