"""The heatmap shows the means of the table, which are best, and what is lost or missing."""

import dataclasses

import numpy as np
import pytest
from synthetic_grids import FLRS, PLRS, published_grid, regime_of

from fasttrain.analysis.tables import SetupResults

from .drawings import mark, of


@pytest.fixture(scope="module")
def results() -> SetupResults:
    return published_grid()


def test_heatmap_holds_the_means_and_outlines_the_best(results):
    changed = mark(results, 0.1, kind="finetune", plr=1e-1, flr=3e-4)
    changed = mark(changed, kind="finetune", plr=1e-2, flr=3e-4, seed=0)
    changed = mark(changed, kind="finetune", plr=1e-3, flr=1e-5)
    gone = (changed.stages["plr"] == 1e-5) & (changed.stages["flr"] == 3e-4)
    changed = dataclasses.replace(changed, stages=changed.stages[~gone])
    figure = of(changed, "heatmap").figure
    cells = figure.axes[0].collections[0].get_array().reshape(len(FLRS), len(PLRS))
    rows = changed.stages[changed.stages["kind"] == "finetune"]
    expected = 100 * rows.pivot_table(index="flr", columns="plr", values="test_accuracy")
    kept = ~np.ma.getmaskarray(cells)
    assert [tuple(cell) for cell in np.argwhere(~kept)] == [(0, 4), (1, 0)]
    np.testing.assert_allclose(cells[kept], expected.to_numpy()[kept])
    patches = figure.axes[0].patches
    assert [patch.get_xy() for patch in patches if patch.get_hatch()] == [(4, 0), (6, 1), (8, 1)]
    place = np.unravel_index(np.nanargmax(np.where(kept, cells, np.nan)), cells.shape)
    assert patches[-1].get_xy() == (place[1], place[0])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[1:] == [
        "a seed at chance or without a finite loss",
        "no finite accuracy",
        "not finished",
    ]
    # The cell that is at chance shows its accuracy, and takes no colours from the others.
    assert "10.0\n± 0.0" in [text.get_text() for text in figure.axes[0].texts]
    above = np.sort(np.asarray(cells[kept]))[1:]
    assert figure.axes[0].collections[0].get_clim()[0] == above.min() > 10.1
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[: len(PLRS)] == [regime_of(plr) for plr in PLRS]
    first = rows[(rows["plr"] == PLRS[0]) & (rows["flr"] == FLRS[0])]["test_accuracy"]
    assert f"{expected.iloc[0, 0]:.1f}\n± {100 * first.std(ddof=1):.1f}" in texts


def test_heatmap_outlines_all_that_are_equally_good(results):
    ties = [(1e-3, 1e-5), (1e-2, 3e-4)]
    for plr, flr in ties:
        results = mark(results, 0.999, kind="finetune", plr=plr, flr=flr)
    results.stages.loc[results.stages["test_accuracy"] == 0.999, "state"] = "done"
    figure = of(results, "heatmap").figure
    outlined = [patch.get_xy() for patch in figure.axes[0].patches if patch.get_linewidth() == 2.5]
    assert outlined == [(PLRS.index(plr), FLRS.index(flr)) for plr, flr in ties]
    label, *_ = [text.get_text() for text in figure.legends[0].get_texts()]
    assert label == "best cells (on the test set)"


def test_heatmap_of_few_rates_has_room_for_its_labels():
    few = published_grid((1e-3, 1e-2), (1e-4, 1e-3), (), (0,), num_epochs=12, analysed=False)
    figure = of(few, "heatmap").figure
    figure.draw_without_rendering()
    ax = figure.axes[0]
    for label in (ax.xaxis.label, ax.yaxis.label):
        box = label.get_window_extent()
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1)


def test_wide_heatmap_has_no_numbers():
    wide = published_grid(tuple(np.geomspace(1e-5, 0.1, 20)), ks=(), seeds=(0,), analysed=False)
    ax = of(wide, "heatmap").figure.axes[0]
    assert len(ax.texts) == 20 and len(ax.get_xticklabels()) == 20
