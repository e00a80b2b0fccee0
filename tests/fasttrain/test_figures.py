"""The figures draw the numbers of the table: means, sample standard deviations, divergence."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from fasttrain.report import (
    accuracy_against_plr,
    heatmap,
    rich_table,
    save,
    seed_means,
    summary,
    training_curves,
)

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


def _diverge(stages: pd.DataFrame, accuracy: float = NAN, **cell: float | str) -> pd.DataFrame:
    chosen = np.logical_and.reduce([stages[key] == value for key, value in cell.items()])
    stages.loc[chosen, ["state", "test_accuracy"]] = ["diverged", accuracy]
    return stages


def _epochs(stages: pd.DataFrame, num_epochs: int = 4) -> pd.DataFrame:
    rows = []
    for stage in stages[stages["kind"] == "pretrain"].to_dict("records"):
        for epoch in range(1, num_epochs + 1):
            row = {key: stage[key] for key in ("stage", "setup", "kind", "seed", "plr", "flr", "k")}
            row |= {"epoch": epoch, "train_loss": (1 + stage["seed"]) / epoch}
            row |= {"train_accuracy": 0.5, "grad_norm": 3.0 / epoch, "test_loss": 1.0}
            rows.append(row | {"test_accuracy": 0.2 * epoch if epoch % 2 == 0 else NAN})
    return pd.DataFrame(rows)


def _lines(figure: Figure, panel: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label -> points (num_plr, 2) and bars (num_plr, 2, 2) of one panel."""
    found = {}
    for container in figure.axes[panel].containers:
        line, _, (bars,) = container.lines
        found[container.get_label()] = line.get_xydata(), np.array(bars.get_segments())
    return found


def _draw(figure: Figure) -> None:
    """Rendering is where matplotlib complains."""
    figure.canvas.draw()


def test_points_are_means_and_bars_are_sample_standard_deviations():
    stages = _stages()
    figure = accuracy_against_plr(stages, 10)
    _draw(figure)
    finetuned = _lines(figure, 0)
    assert list(finetuned) == ["pre-training", "FLR 0.0001", "FLR 0.003"]
    assert list(_lines(figure, 1)) == ["pre-training", "k 2", "k 5"]
    points, bars = finetuned["FLR 0.003"]
    rows = stages[(stages["kind"] == "finetune") & (stages["flr"] == 3e-3)]
    for plr, point, bar in zip(PLRS, points, bars, strict=True):
        values = 100 * rows.loc[rows["plr"] == plr, "test_accuracy"].to_numpy()
        spread = np.sqrt(((values - values.mean()) ** 2).sum() / 2)
        np.testing.assert_allclose(point, (plr, values.mean()))
        np.testing.assert_allclose(bar[:, 1], (values.mean() - spread, values.mean() + spread))
    chance = [line for line in figure.axes[0].lines if line.get_label() == "chance level"]
    assert list(chance[0].get_ydata()) == [10, 10]
    assert "n = 3 seeds" in figure.axes[0].get_legend().get_title().get_text()


def test_one_seed_has_no_error_bar():
    stages = _stages(seeds=(7,))
    figure = accuracy_against_plr(stages, None)
    _draw(figure)
    # A bar that cannot be drawn has no end points left.
    assert not any(bars.size for _, bars in _lines(figure, 0).values())
    assert "no error bars" in figure.axes[0].get_legend().get_title().get_text()
    assert seed_means(stages, "finetune")["std"].isna().all()


def test_diverged_points_are_hollow_and_lost_ones_crossed():
    stages = _diverge(_stages(), 0.1, kind="pretrain", plr=0.5, seed=1)
    stages = _diverge(stages, kind="finetune", plr=2e-2, flr=1e-4)
    figure = accuracy_against_plr(stages, 10)
    _draw(figure)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    hollow = [line for line in lines if same_color(line.get_markerfacecolor(), "white")]
    crosses = [line for line in lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in hollow] == [[0.5]]
    assert [list(line.get_xdata()) for line in crosses] == [[2e-2]]
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts[-3:] == ["chance level", "a seed diverged", "no accuracy"]


def test_heatmap_holds_the_means_and_outlines_the_best():
    stages = _diverge(_stages(), 0.1, kind="finetune", plr=0.5, flr=3e-3)
    stages = _diverge(stages, kind="finetune", plr=2e-2, flr=3e-3, seed=0)
    stages = stages[~((stages["plr"] == 1e-4) & (stages["flr"] == 3e-3))]
    figure = heatmap(stages)
    _draw(figure)
    drawn = figure.axes[0].collections[0].get_array().reshape(len(FLRS), len(PLRS))
    rows = stages[(stages["kind"] == "finetune")]
    expected = 100 * rows.pivot_table(index="flr", columns="plr", values="test_accuracy")
    blank = [(1, 0), (1, 4)]
    assert [tuple(cell) for cell in np.argwhere(np.ma.getmaskarray(drawn))] == blank
    kept = ~np.ma.getmaskarray(drawn)
    np.testing.assert_allclose(drawn[kept], expected.to_numpy()[kept])
    patches = figure.axes[0].patches
    assert [patch.get_xy() for patch in patches if patch.get_hatch()] == [(3, 1), (4, 1)]
    # The highest mean without a diverged seed is at PLR 0.5, FLR 1e-4.
    assert patches[-1].get_xy() == (4, 0)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[1:] == ["diverged", "some seeds diverged", "not finished"]
    assert f"{expected.iloc[0, 0]:.1f}\n± 2.1" in [text.get_text() for text in figure.axes[0].texts]


def test_wide_heatmap_has_no_numbers():
    stages = _stages(seeds=(0,), plrs=tuple(np.geomspace(1e-5, 1, 20)), ks=())
    figure = heatmap(stages)
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_xticklabels()) == 20


def test_training_curves_are_means_over_seeds():
    stages = _diverge(_stages(), kind="pretrain", plr=0.5, seed=1)
    epochs = _epochs(stages)
    epochs.loc[(epochs["seed"] == 2) & (epochs["epoch"] == 3), "train_loss"] = np.inf
    # The same stages under another set-up's name are not drawn.
    other = epochs.assign(setup="s2", plr=0.7)
    figure = training_curves(pd.concat([epochs, other]), stages)
    _draw(figure)
    loss, accuracy, norm = (figure.axes[panel].lines for panel in range(3))
    assert len(loss) == len(accuracy) == len(norm) == len(PLRS)
    np.testing.assert_allclose(loss[0].get_xydata(), [(1, 2), (2, 1), (3, 0.5), (4, 0.5)])
    np.testing.assert_allclose(accuracy[0].get_xydata(), [(2, 40), (4, 80)])
    np.testing.assert_allclose(norm[0].get_ydata(), [3, 1.5, 1, 0.75])
    assert [line.get_linestyle() for line in loss] == ["-", "-", "-", "-", "--"]
    assert [ax.get_yscale() for ax in figure.axes[:3]] == ["log", "linear", "log"]


@pytest.mark.parametrize("empty", [pd.DataFrame(), _stages().iloc[:0]], ids=["bare", "columns"])
def test_empty_tables_say_so(empty):
    for figure in (accuracy_against_plr(empty, 10), heatmap(empty), training_curves(empty, empty)):
        _draw(figure)
        assert figure.texts[0].get_text().startswith("No ")
    assert summary(empty).empty
    assert rich_table(summary(empty)).row_count == 0


@pytest.mark.parametrize("accuracy", [NAN, np.inf, 0.1])
def test_everything_diverged(accuracy):
    stages = _stages(plrs=(1e-3,))
    stages["state"], stages["test_accuracy"] = "diverged", accuracy
    epochs = _epochs(stages).assign(train_loss=NAN, test_accuracy=NAN, grad_norm=0.0)
    for figure in (accuracy_against_plr(stages, 10), heatmap(stages)):
        _draw(figure)
    _draw(training_curves(epochs, stages))
    assert summary(stages)["state"].tolist() == ["diverged"]


def test_summary_takes_the_best_cell_without_divergence():
    stages = _diverge(_stages(), 0.99, kind="finetune", plr=1e-3, flr=3e-3, seed=0)
    stages = stages[~((stages["kind"] == "swa") & (stages["plr"] == 5e-4) & (stages["k"] == 5))]
    stages = _diverge(stages, plr=0.5)
    stages = _diverge(stages, 0.2, kind="pretrain", plr=PLRS[3], seed=1)
    stages["k"] = stages["k"].astype("Int64")
    table = summary(stages)
    assert table["plr"].tolist() == list(PLRS)
    assert table["state"].tolist() == ["done", "partial", "done", "1/3 diverged", "diverged"]
    np.testing.assert_allclose(table["best_flr"], [3e-3, 3e-3, 1e-4, 3e-3, NAN])
    np.testing.assert_allclose(table["best_k"], [5, 2, 5, 5, NAN])
    np.testing.assert_allclose(table["finetuned_n"], [3, 3, 3, 3, 0])
    pretrained = stages[(stages["kind"] == "pretrain") & (stages["plr"] == 1e-3)]["test_accuracy"]
    row = table.iloc[2]
    np.testing.assert_allclose(row["pretrained"], pretrained.mean())
    np.testing.assert_allclose(row["pretrained_std"], pretrained.std(ddof=1))
    assert rich_table(table).row_count == len(PLRS)


def test_summary_shows_diverged_cells_where_there_are_no_others():
    stages = _diverge(_stages(), 0.1, kind="swa", plr=0.5)
    row = summary(stages).iloc[-1]
    np.testing.assert_allclose(row["averaged"], 0.1)
    assert row["state"] == "done"


def test_set_ups_and_repeated_seeds_are_refused():
    stages = _stages()
    with pytest.raises(ValueError, match="one set-up at a time, got 2: s1, s2"):
        seed_means(pd.concat([stages, stages.assign(setup="s2")]), "pretrain")
    with pytest.raises(ValueError, match="15 repeated stages.*plr 0.0001, seed 0"):
        seed_means(pd.concat([stages, stages]), "pretrain")


def test_saving_twice_gives_the_same_bytes(tmp_path):
    stages = _stages()
    first = save(heatmap(stages), tmp_path / "a.b")
    assert [path.name for path in first] == ["a.b.png", "a.b.svg"]
    second = save(heatmap(stages), tmp_path / "again")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
