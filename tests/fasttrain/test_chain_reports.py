"""How chains are told: their headline, and the regimes of first legs."""

import dataclasses
from pathlib import Path

import pandas as pd

from fasttrain.analysis.regimes import classify, first_legs
from fasttrain.analysis.setups import all_setups
from fasttrain.report.chains import (
    REGIME_HEADING,
    SUMMARY_HEADINGS,
    chain_headline,
    chain_summary,
    starting_regimes,
)
from fasttrain.report.figures.chains import CHAIN_CURVES, CHAIN_ENDS

from .chains import THREE, study


def test_the_headline_names_the_best_end_and_waits_for_the_plan(fasttrain, tmp_path):
    assert fasttrain("sweep", study(tmp_path, THREE), "--store", "s", "--pack", "4").code == 0
    [grid] = all_setups("s")
    best = max(grid.stages["test_accuracy"])
    first, *_ = chain_headline(grid)
    assert first.startswith("Best end: ") and f"{100 * best:.2f} ± " in first
    part = dataclasses.replace(grid, stages=grid.stages.iloc[:-1])
    first, *others = chain_headline(part)
    assert first == "1 stage of the plan is not finished: no path is judged yet."
    assert not any("Best end" in sentence for sentence in others)


SPHERE = """
[experiment]
kind = "chain"
legs = [
    [{ lr = [1e-5, 5e-1], epochs = 3 }],
    [{ lr = [1e-5, 5e-1], epochs = 12 }, { lr = 1e-3, epochs = 1 }],
]
"""


def test_chains_tell_the_regime_of_their_first_leg(fasttrain, tmp_path):
    assert fasttrain("sweep", study(tmp_path, SPHERE, ""), "--store", "s", "--pack", "4").code == 0
    [grid] = all_setups("s")
    judged = first_legs(grid)
    roots = grid.stages[grid.stages["depth"] == 1]
    assert sorted(judged["stage"]) == sorted(roots["stage"]) and len(judged) == 4
    assert classify(grid).empty
    regimes = dict(zip(judged["stage"], judged["regime"], strict=True))
    assert "3" in set(judged.loc[judged["plr"] == 0.5, "regime"])
    starts = starting_regimes(grid)
    for row in grid.stages.to_dict("records"):
        root = row["stage"] if row["depth"] == 1 else row["parent"]
        assert starts[row["stage"]] == regimes[root]
    headings = [*SUMMARY_HEADINGS, REGIME_HEADING]
    table = pd.DataFrame(chain_summary(grid.stages, starts), columns=headings)
    found = table[(table["path"] == "0.5") & (table["epochs"] == "12")][REGIME_HEADING]
    [long] = roots[(roots["plr"] == 0.5) & (roots["epochs"] == 12)]["stage"]
    assert list(found) == [regimes[long]]
    said = " ".join(chain_headline(grid))
    assert "Regimes of first legs, by rate: 1e-5 " in said.replace("1e-05", "1e-5")
    curves = CHAIN_CURVES.table(grid, judged)
    assert set(curves.loc[curves["path"] == "0.5>0.001", "regime"]) == {regimes[long]}
    ends = CHAIN_ENDS.table(grid, judged)
    assert ends["regime"].ne("").all()
    labels = [text.get_text() for text in CHAIN_CURVES.draw(curves, []).legends[0].get_texts()]
    assert any(label.endswith(f"[{regimes[long]}]") for label in labels)


def test_settings_without_regimes_say_so_and_have_no_column(fasttrain, tmp_path):
    assert fasttrain("sweep", study(tmp_path, THREE), "--store", "s", "--pack", "4").code == 0
    [grid] = all_setups("s")
    assert starting_regimes(grid) == {}
    assert "the optimiser is sgd" in " ".join(chain_headline(grid))
    assert len(chain_summary(grid.stages, {})[0]) == len(SUMMARY_HEADINGS)
    assert set(CHAIN_CURVES.table(grid, pd.DataFrame())["regime"]) == {""}
    page = (Path("s") / "report/report.html").read_text()
    assert REGIME_HEADING not in page
