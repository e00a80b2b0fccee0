"""Means over seeds, and the summary made of them."""

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from fasttrain.report import rich_table, summary
from fasttrain.report.seed_means import SUMMARY_HEADINGS, seed_means, summary_rows

PLRS = (1e-4, 5e-4, 1e-3, 2e-2, 0.5)
FLRS = (1e-4, 3e-3)
KS = (2, 5)
NAN = float("nan")


def _stage(number: int, kind: str, seed: int, plr: float, flr: float, k: float) -> dict:
    accuracy = 0.5 + 0.1 * np.log10(plr * 1e4) + 0.01 * seed**2
    accuracy += 0.05 * (kind != "pretrain") + 1e-3 * np.nan_to_num(k) + 3 * np.nan_to_num(flr)
    return {
        "setup": "s1",
        "stage": f"{number:016x}",
        "dataset": "digits",
        "model": "convnet",
        "width": 8,
        "seed": seed,
        "kind": kind,
        "plr": plr,
        "flr": flr,
        "k": k,
        "epoch": {"pretrain": 4, "finetune": 8}.get(kind, 4 + np.nan_to_num(k)),
        "train_loss": 2.3 * (1 - accuracy),
        "train_accuracy": accuracy,
        "test_loss": 2.4 * (1 - accuracy),
        "test_accuracy": accuracy,
        "grad_norm": NAN if kind == "swa" else 1.5,
        "state": "done",
        "time_s": 2.0,
    }


def _stages(seeds=(0, 1, 2), plrs=PLRS, flrs=FLRS, ks=KS) -> pd.DataFrame:
    cells = [("pretrain", NAN, NAN), *(("finetune", flr, NAN) for flr in flrs)]
    cells += [("swa", NAN, k) for k in ks]
    rows = [(kind, seed, plr, flr, k) for seed in seeds for plr in plrs for kind, flr, k in cells]
    return pd.DataFrame([_stage(number, *row) for number, row in enumerate(rows)])


def _mark(stages: pd.DataFrame, accuracy: float = NAN, **cell: float | str) -> pd.DataFrame:
    """Cells without a finite loss, or with an accuracy at chance."""
    state = "non-finite" if np.isnan(accuracy) else "at-chance"
    chosen = np.logical_and.reduce([stages[key] == value for key, value in cell.items()])
    stages.loc[chosen, ["state", "test_accuracy"]] = [state, accuracy]
    return stages


def test_summary_takes_the_best_cell_of_which_no_seed_is_marked():
    stages = _mark(_stages(), 0.99, kind="finetune", plr=1e-3, flr=3e-3, seed=0)
    stages = stages[~((stages["kind"] == "swa") & (stages["plr"] == 5e-4) & (stages["k"] == 5))]
    stages = _mark(stages, plr=0.5)
    stages = _mark(stages, 0.2, kind="pretrain", plr=PLRS[3], seed=1)
    stages["k"] = stages["k"].astype("Int64")
    table = summary(stages)
    assert table["plr"].tolist() == list(PLRS)
    assert table["state"].tolist() == ["done", "partial", "done", "1/3 at chance", "non-finite"]
    np.testing.assert_allclose(table["best_flr"], [3e-3, 3e-3, 1e-4, 3e-3, NAN])
    np.testing.assert_allclose(table["best_k"], [5, 2, 5, 5, NAN])
    np.testing.assert_allclose(table["finetuned_n"], [3, 3, 3, 3, 0])
    pretrained = stages[(stages["kind"] == "pretrain") & (stages["plr"] == 1e-3)]["test_accuracy"]
    row = table.iloc[2]
    np.testing.assert_allclose(row["pretrained"], pretrained.mean())
    np.testing.assert_allclose(row["pretrained_std"], pretrained.std(ddof=1))


def test_summary_in_words_and_in_a_terminal_of_80_columns():
    stages = _mark(_stages(), plr=0.5)
    stages = _mark(stages, 0.2, kind="pretrain", plr=PLRS[3], seed=1)
    table = summary(stages)
    rows = summary_rows(table)
    assert all(len(row) == len(SUMMARY_HEADINGS) for row in rows)
    accuracies = stages[(stages["kind"] == "finetune") & (stages["flr"] == 3e-3)]
    values = 100 * accuracies.loc[accuracies["plr"] == 1e-4, "test_accuracy"].to_numpy()
    finetuned = f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
    assert rows[0][0] == "0.0001" and rows[0][2:4] == (f"{finetuned} (3)", "0.003")
    assert rows[0][1] == "51.67 ± 2.08 (3)" and rows[0][5:] == ("5", "done")
    assert rows[-1] == ("0.5", "–", "–", "–", "–", "–", "non-finite")
    console = Console(width=80, record=True, color_system=None)
    with console.capture() as captured:
        console.print(rich_table(table))
    lines = [line.rstrip() for line in captured.get().splitlines() if line.strip()]
    assert "n = 0 to 3" in lines[0] and all(len(line) <= 80 for line in lines)
    headings = ["PLR", "pre-trained", "fine-tuned", "FLR", "averaged", "k", "state"]
    assert [name for name in headings if name in lines[1]] == headings and "…" not in str(lines)
    shown = lines[-len(PLRS) :]
    assert finetuned in shown[0] and shown[0].split()[0] == "0.0001" and shown[0].endswith("done")
    assert shown[3].endswith("1/3 at chance") and shown[4].split() == [
        "0.5",
        *"–––––",
        "non-finite",
    ]


def test_summary_shows_marked_cells_where_there_are_no_others():
    stages = _mark(_stages(), 0.1, kind="swa", plr=0.5)
    row = summary(stages).iloc[-1]
    np.testing.assert_allclose(row["averaged"], 0.1)
    assert row["state"] == "done"


def test_set_ups_and_repeated_seeds_are_refused():
    stages = _stages()
    with pytest.raises(ValueError, match="one set-up at a time, got 2: s1, s2"):
        seed_means(pd.concat([stages, stages.assign(setup="s2")]), "pretrain")
    with pytest.raises(ValueError, match="15 repeated stages.*plr 0.0001, seed 0"):
        seed_means(pd.concat([stages, stages]), "pretrain")


@pytest.mark.parametrize("empty", [pd.DataFrame(), _stages().iloc[:0]], ids=["bare", "columns"])
def test_empty_tables_have_an_empty_summary(empty):
    assert summary(empty).empty
    assert rich_table(summary(empty)).row_count == 0


def test_one_seed_has_no_deviation():
    means = seed_means(_stages(seeds=(7,)), "finetune")
    assert means["std"].isna().all() and (means["n"] == 1).all()


@pytest.mark.parametrize(
    ("state", "accuracy", "words"),
    [("non-finite", NAN, "non-finite"), ("at-chance", np.inf, "at chance")],
)
def test_everything_is_marked(state, accuracy, words):
    stages = _stages(plrs=(1e-3,))
    stages["state"], stages["test_accuracy"] = state, accuracy
    assert summary(stages)["state"].tolist() == [words]


def test_an_accuracy_at_chance_is_shown():
    stages = _mark(_stages(plrs=(1e-3,)), 0.1, kind="pretrain")
    [row] = summary_rows(summary(stages))
    assert row[1] == "10.00 ± 0.00 (3)" and row[-1] == "at chance"
