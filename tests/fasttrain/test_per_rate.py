"""One run of every PLR, each with a seed of its own: `seeds = "per-rate"`."""

import pandas as pd

import fasttrain as ft
from fasttrain.analysis.regimes import boundaries
from fasttrain.plan.config import check
from fasttrain.plan.trees import build

RATES = [1e-3, 1e-2, 1e-1]
GRID = {"plr": RATES, "flr": [1e-2], "k": [2]}
SMALL = {"n_train": 150, "n_test": 60, "width": 2, "epochs": 2, "finetune_epochs": 1}


def stages(grid: dict, **tables: dict) -> set[str]:
    return {stage.id for stage in build(check({"grid": grid, **tables}, "x"), ())}


def test_every_rate_has_the_stages_of_one_seed():
    several = build(check({"grid": {**GRID, "seeds": 3}}, "x"), ())
    own = {s.id for s in several if RATES.index(s.legs[0].knobs.lr) == s.seed}
    assert len(own) == 9
    assert stages({**GRID, "seeds": "per-rate"}) == own


def test_chains_that_begin_at_one_rate_share_its_run():
    legs = [
        [{"lr": [1e-2, 1e-1], "epochs": 2}],
        [{"lr": 1e-1, "epochs": 2}, {"lr": 1, "epochs": 1}],
    ]
    experiment = {"kind": "chain", "legs": legs}
    found = build(check({"grid": {"seeds": "per-rate"}, "experiment": experiment}, "x"), ())
    assert [(s.knobs.lr, s.seed) for s in found] == [(1e-2, 0), (1e-1, 1), (1, 1)]


def test_a_boundary_is_read_over_runs_of_different_seeds():
    runs = pd.DataFrame({"plr": RATES, "regime": ["1", "2", "3"], "seed": [0, 1, 2]})
    found = boundaries(runs).set_index("boundary")
    one = boundaries(runs.assign(seed=0)).set_index("boundary")
    pd.testing.assert_frame_equal(found, one)
    assert found.loc["1|2", "num_seeds"] == 1


def test_a_study_of_them_trains_and_reports(tmp_path):
    study = ft.study("digits", **{**GRID, "seeds": "per-rate"}, **SMALL)
    results = ft.sweep(study, store=tmp_path / "store", processes=1, pack=2)
    runs = results.stages.query("kind == 'pretrain'").sort_values("plr")
    assert list(runs["seed"]) == [0, 1, 2]
    assert results.report().stat().st_size
    assert results.figure("accuracy").axes
