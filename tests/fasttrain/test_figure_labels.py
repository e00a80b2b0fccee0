"""Lines beside a boundary are labelled: the right ones, at their ends, none over another."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from fasttrain.report.figures.labels import beside_boundaries, label_lines
from fasttrain.report.seed_means import number

from .drawings import of
from .synthetic_grids import published_grid


def test_a_boundary_is_where_neighbouring_rates_differ():
    names = {1e-4: "1", 1e-3: "1", 2e-3: "2A", 3e-3: "2A", 4e-3: "2A", 5e-3: "undecided"}
    table = pd.DataFrame({"plr": names.keys(), "regime": names.values()}).sample(
        frac=1, random_state=1
    )
    assert beside_boundaries(table) == [1e-3, 2e-3, 4e-3, 5e-3]
    assert beside_boundaries(table[table["regime"] == "1"]) == []


@pytest.mark.parametrize("end", [0.5, 1e-9, 1.0], ids=["middle", "bottom", "top"])
def test_labels_of_lines_that_end_together_lie_apart_and_inside(end):
    figure = Figure(figsize=(3.7, 2.9))
    ax = figure.add_subplot()
    ends = {10.0**-n: (9.0, end + 1e-6 * n) for n in range(8)}
    for x, y in ends.values():
        ax.plot([0, x], [0, y])
    ax.set_ylim(0, 1)
    label_lines(ax, ends)
    figure.draw_without_rendering()
    # Without the lines that join them.
    texts = sorted(ax.texts, key=lambda text: Text.get_window_extent(text).y0)
    boxes = [Text.get_window_extent(text) for text in texts]
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:], strict=False))
    # From the lowest line to the highest.
    assert [text.get_text() for text in texts] == [
        number(plr) for plr in sorted(ends, key=lambda plr: ends[plr][1])
    ]
    assert all(box.x0 > ax.bbox.x1 for box in boxes) and boxes[-1].y1 < ax.bbox.y1 + 6
    assert boxes[0].y0 > ax.bbox.y0 - 6
    assert ax.get_ylim() == (0, 1)


@pytest.mark.parametrize(
    "name, num_axes", [("curves", 4), ("phase", 1), ("lines", 2), ("heterogeneity", 2)]
)
def test_the_figures_label_the_lines_beside_boundaries(name, num_axes):
    item = of(published_grid(seeds=(0,), analysed=name in ("lines", "heterogeneity")), name)
    assert item.table is not None
    expected = {number(plr) for plr in beside_boundaries(item.table)}
    assert 2 <= len(expected) < item.table["plr"].nunique()
    for ax in item.figure.axes[:num_axes]:
        assert {text.get_text() for text in ax.texts} == expected
        labels = [text for text in ax.texts if isinstance(text, Annotation)]
        ends = np.array([text.xy for text in labels], dtype=float)
        lines = np.concatenate([line.get_xydata() for line in ax.lines])
        # Each is joined to a point of a line.
        assert all(np.isclose(lines, end).all(axis=1).any() for end in ends)
