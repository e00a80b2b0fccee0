"""What keeps a large store's tables small in memory leaves them as they are."""

import numpy as np
import pandas as pd
import pytest

import fasttrain
from fasttrain.analysis.records import Analysis, choose, compact_analyses, save
from fasttrain.analysis.tables import empty
from fasttrain.store.store import Store
from fasttrain.store.tables import finished

from .simulated import simulate, write_study


def _angles(pairs: list[tuple[str, str, float]]) -> pd.DataFrame:
    table = pd.DataFrame(pairs, columns=["stage_a", "stage_b", "angle"])
    return table.astype(empty("angles").dtypes)


@pytest.fixture
def store(tmp_path) -> Store:
    simulate(write_study(tmp_path / "grid.toml", 2, 2, 1), tmp_path / "store")
    return Store.open(tmp_path / "store", create=False)


def test_angles_are_those_of_all_records_each_once(store):
    parts = [
        [("a", "b", 0.1), ("a", "c", 0.2), ("b", "c", np.nan)],
        [("a", "c", 0.2), ("a", "c", 0.3), ("b", "c", np.nan), ("c", "a", 0.2), ("d", "e", 0.5)],
    ]
    made = [Analysis("geometry", (f"{at:016x}",), {}, 0, "x") for at in range(2)]
    for analysis, pairs in zip(made, parts, strict=True):
        save(analysis, {"angles": _angles(pairs)}, {"command": "c", "date": "2026-01-01"}, store)
    choose({"x": {"geometry": made}}, store)
    expected = pd.concat([_angles(pairs) for pairs in parts]).drop_duplicates(ignore_index=True)
    assert len(expected) == 6
    pd.testing.assert_frame_equal(fasttrain.load_analyses(store.path)["angles"], expected)
    compact = compact_analyses(store.path)["angles"]
    assert {str(compact[name].dtype) for name in ("stage_a", "stage_b")} == {"category"}
    pd.testing.assert_frame_equal(compact.astype(expected.dtypes), expected)


def test_names_in_records_are_in_memory_once(store):
    found = finished(store.path)
    assert len(found) == 6
    for part in ("files", "result"):
        names = [list(f.done[part]) for f in found]
        assert len({tuple(map(id, sorted(own))) for own in names}) == 1
