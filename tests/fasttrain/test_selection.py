"""What is measured of chains of legs: every end once, whatever knobs tell them apart."""

import pandas as pd
import pytest

from fasttrain.analysis.request import Request
from fasttrain.analysis.selection import select

PATHS = {
    "a": ("pretrain", "0.1", None),
    "b": ("pretrain", "0.1 noise 0.2", None),
    "c": ("finetune", "0.1>0.01", None),
    "d": ("finetune", "0.1 noise 0.2>0.01", None),
    "e": ("leg", "0.1>0.01>0.001", None),
    "f": ("swa", "0.1>0.01>0.001", 2),
    "g": ("swa", "0.1>0.01>0.001", 5),
}


@pytest.fixture
def stages() -> pd.DataFrame:
    rows = [
        {"stage": stage, "kind": kind, "path": path, "k": k, "depth": path.count(">") + 1}
        for stage, (kind, path, k) in PATHS.items()
    ]
    same = {"experiment": "chain", "seed": 3, "plr": 0.1, "flr": 0.01}
    return pd.DataFrame(rows).assign(**same).astype({"k": "Int64"})


def measured(stages: pd.DataFrame, request: Request) -> dict[str, list[str]]:
    found = select(stages, list(stages["stage"]), request).analyses
    return {kind: sorted(s for a in made for s in a.stages) for kind, made in found.items()}


def test_every_end_of_chains_is_measured_and_no_pair(stages):
    found = measured(stages, Request())
    assert found["angles"] == found["sharpness"] == found["features"] == list("abcdefg")
    # Norms over an average's run are those of no stage.
    assert found["norms"] == list("abcde")
    assert not found["lines"]


def test_labels_are_paths_and_rates_of_a_grid_are_said_to_be_none(stages):
    found = select(stages, list("abcdefg"), Request(only=("norms",), low=0.01))
    labels = [analysis.label() for analysis in found.analyses["norms"]]
    assert "norms 0.1 noise 0.2>0.01 seed 3" in labels and len(set(labels)) == 5
    [note] = found.notes
    assert note.endswith("no pair of them (low and high are of a grid's FLR)")
