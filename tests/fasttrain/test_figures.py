"""Every figure draws any grid or says what is missing; its files repeat, and hold what is drawn."""

import dataclasses
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from synthetic_grids import PLRS, published_grid

from fasttrain.analysis.regimes import classify, shades
from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures import DRAWINGS, Drawn, Missing, drawn, save
from fasttrain.report.figures.rows import MAX_POINTS, MAX_POINTS_PER_LINE, over_seeds, thinned
from fasttrain.report.figures.style import panels, plr_axes
from fasttrain.report.figures.svg import compact

NAN = float("nan")
NAMES = [drawing.name for drawing in DRAWINGS]
ANALYSED = {"geometry", "lines", "angles", "norms", "heterogeneity", "sharpness", "bands"}
ANALYSED |= {"eigenvalues"}


def _all_lost() -> SetupResults:
    """Every run lost in its second epoch."""
    results = published_grid((1e-3, 1e-1), seeds=(0, 1), num_epochs=2, analysed=False)
    lost = ["train_loss", "test_loss", "test_accuracy", "grad_norm", "train_accuracy"]
    epochs = results.epochs.copy()
    epochs.loc[epochs["epoch"] % 2 == 0, lost] = NAN
    return dataclasses.replace(
        results,
        stages=results.stages.assign(state="non-finite", **dict.fromkeys(lost, NAN)),
        epochs=epochs,
    )


def _unfinished() -> SetupResults:
    """Nothing but pre-training, of different seeds at different rates."""
    results = published_grid(seeds=(0, 1), flrs=(), ks=(), num_epochs=12)
    gone = (results.stages["seed"] == 1) & (results.stages["plr"] > 1e-3)
    return dataclasses.replace(results, stages=results.stages[~gone])


def _without_columns_of_later() -> SetupResults:
    """A store from before the distance was recorded."""
    results = published_grid(seeds=(0,), num_epochs=12)
    return dataclasses.replace(results, epochs=results.epochs.drop(columns="distance"))


GRIDS = {
    "published": published_grid,
    "one seed": lambda: published_grid(seeds=(3,), num_epochs=12),
    "one PLR": lambda: published_grid((1e-3,), num_epochs=12),
    "one FLR": lambda: published_grid((1e-4, 1e-3), flrs=(1e-4,), seeds=(0,), num_epochs=12),
    "undecided": lambda: published_grid((5e-4, 1e-3), seeds=(0, 1), num_epochs=2),
    "one epoch": lambda: published_grid((1e-4, 1e-1), seeds=(0,), num_epochs=1),
    "many k": lambda: published_grid((1e-4, 1e-2), ks=(2, 5, 10), seeds=(0,), num_epochs=12),
    "lost": _all_lost,
    "unfinished": _unfinished,
    "no distance": _without_columns_of_later,
}


RENDERED = {
    "one FLR": ("accuracy", "heatmap", "starts", "geometry", "lines"),
    "undecided": ("accuracy", "regimes", "curves", "phase"),
    "one epoch": ("regimes", "curves", "phase", "convergence", "norms"),
    "many k": ("accuracy", "geometry", "bands"),
    "no distance": ("geometry", "curves"),
}
"""Figures that look another way there; all of them in the other cases."""


def _all(results: SetupResults) -> list[Drawn]:
    return list(drawn(results, classify(results)))


@pytest.fixture(scope="module")
def figures() -> dict[str, Drawn]:
    return {item.drawing.name: item for item in _all(published_grid())}


@pytest.mark.parametrize("case", GRIDS)
def test_every_grid_gives_figures_or_sentences(case):
    found = _all(GRIDS[case]())
    rendered = RENDERED.get(case, NAMES)
    assert [item.drawing.name for item in found] == NAMES
    for item in found:
        if item.table is None:
            assert item.missing.endswith(".") and "\n" not in item.missing
            with pytest.raises(Missing):
                _ = item.figure
            continue
        assert item.missing == "" and len(item.table)
        assert item.caption.endswith(".")
        # Rendering is where matplotlib complains, and warnings are errors here.
        if item.drawing.name in rendered:
            item.figure.draw_without_rendering()
    if case in ("published", "one seed", "no distance"):
        assert not [item.missing for item in found if item.table is None]


def test_one_average_is_shown_the_published_one_if_there_is_a_choice():
    for ks, chosen in {(2, 5, 10): 5, (2,): 2, (10, 50): 10}.items():
        results = published_grid((1e-3,), ks=ks, seeds=(0,), num_epochs=2)
        table = next(item for item in _all(results) if item.drawing.name == "bands").table
        assert table is not None
        assert [name for name in table["series"].unique() if name[0] == "k"] == [f"k = {chosen}"]


def test_what_is_missing_is_said_with_what_provides_it():
    results = published_grid(seeds=(0,), num_epochs=12, analysed=False)
    missing = {item.drawing.name: item.missing for item in _all(results) if item.table is None}
    assert set(missing) == ANALYSED
    assert all("fasttrain analyse STORE --only" in sentence for sentence in missing.values())
    nothing = dataclasses.replace(
        results, stages=results.stages.iloc[:0], epochs=results.epochs.iloc[:0]
    )
    sentences = {item.drawing.name: item.missing for item in _all(nothing)}
    assert all(sentences.values())
    assert all("fasttrain" in sentence for sentence in sentences.values())


def test_names_and_words_are_complete():
    assert len(set(NAMES)) == len(NAMES)
    for drawing in DRAWINGS:
        assert drawing.name.isidentifier()
        assert drawing.title and drawing.published and drawing.caption.endswith(".")


def test_saving_twice_gives_the_same_bytes(tmp_path):
    first = [save(item, tmp_path / f"a.{item.drawing.name}") for item in _few()]
    again = [save(item, tmp_path / f"b.{item.drawing.name}") for item in _few()]
    for one, other in zip(first, again, strict=True):
        assert [path.suffix for path in one] == [".png", ".svg", ".csv"]
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert len(list(tmp_path.iterdir())) == 3 * 2 * 2


def _few() -> list[Drawn]:
    return [item for item in _all(published_grid()) if item.drawing.name in ("heatmap", "phase")]


def test_csv_holds_the_table(figures):
    for item in figures.values():
        names = {"stage": str, "start": str, "regime": str}
        # Older versions of pandas need to be told to read what was written.
        exact = {} if pd.__version__ >= "3" else {"float_precision": "round_trip"}
        back = pd.read_csv(io.BytesIO(item.csv), dtype=names, **exact)
        assert list(back) == list(item.table)
        for name in back:
            if back[name].dtype == np.float64:
                np.testing.assert_array_equal(back[name], item.table[name].astype(float))


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def _clipped(node: ElementTree.Element, inside: bool, shapes: list) -> list:
    """(shape, whether it or a group around it is clipped), in order."""
    inside |= node.get("clip-path") is not None
    if node.tag.split("}")[-1] in ("path", "use", "text", "rect"):
        shapes.append((node, inside))
    for child in node:
        _clipped(child, inside, shapes)
    return shapes


@pytest.mark.parametrize("name", ["regimes", "sharpness", "lines", "starts"])
def test_compact_svg_is_the_same_picture(figures, name):
    content = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figures[name].figure.savefig(content, format="svg")
    whole, short = content.getvalue(), compact(content.getvalue())
    assert len(short) < 0.6 * len(whole)
    before, after = (ElementTree.fromstring(text) for text in (whole, short))
    pairs = zip(_clipped(before, False, []), _clipped(after, False, []), strict=True)
    for (one, clipped), (other, also) in pairs:
        assert one.tag == other.tag and one.text == other.text and clipped == also
        for place in ("x", "y", "width", "height", "d"):
            found = [_numbers(node.get(place, "")) for node in (one, other)]
            assert found[0] == pytest.approx(found[1], abs=0.1)
    nodes = list(after.iter())
    names = {node.get("id") for node in nodes}
    link = "{http://www.w3.org/1999/xlink}href"
    links = {node.get(link, "") for node in nodes if node.tag.endswith("use")}
    assert {target[1:] for target in links} <= names
    classes = {node.get("class") for node in nodes} - {None}
    styles = "".join(node.text or "" for node in nodes if node.tag.endswith("style"))
    assert classes and all(f".{name}{{" in styles for name in classes)


def test_regimes_are_shaded_with_names_and_boundaries():
    bands = [("1", 1e-4, 1e-3), ("2A", 1e-3, 1e-2), ("3", 3e-2, 1.0)]
    figure, axes = panels(1, 2)
    plr_axes(axes, [1e-4, 1.0], bands)
    figure.draw_without_rendering()
    for ax in axes:
        assert [text.get_text() for text in ax.texts] == ["1", "2A", "3"]
        # A gap between bands has no boundary.
        assert [line.get_xdata()[0] for line in ax.lines] == [1e-3]


def test_means_are_over_finite_values():
    rows = pd.DataFrame({"plr": [1.0, 1.0, 1.0, 2.0, 2.0], "x": [1, 2, 6, np.inf, NAN]})
    means = over_seeds(rows, ["plr"], ["x"])
    np.testing.assert_allclose(means["mean"], [3, NAN])
    np.testing.assert_allclose(means["std"], [np.sqrt((4 + 1 + 9) / 2), NAN])
    assert means["n"].tolist() == [3, 0]


@pytest.mark.parametrize("by_ratio", [False, True])
@pytest.mark.parametrize("num_lines, length", [(1, 1), (1, 3000), (100, 300), (3, 150)])
def test_thinned_lines_keep_their_ends(num_lines, length, by_ratio):
    rows = pd.DataFrame({"line": np.repeat(np.arange(num_lines), length)})
    rows["epoch"] = np.tile(np.arange(length), num_lines)
    kept = thinned(rows, ["line"], by_ratio=by_ratio)
    epochs = kept.groupby("line")["epoch"]
    assert (epochs.min() == 0).all() and (epochs.max() == length - 1).all()
    assert (epochs.count() <= MAX_POINTS_PER_LINE).all() and len(kept) <= MAX_POINTS
    assert epochs.apply(lambda line: line.is_monotonic_increasing).all()
    if num_lines * length <= MAX_POINTS and length <= MAX_POINTS_PER_LINE:
        assert len(kept) == len(rows)


def test_the_synthetic_grid_has_the_published_regimes():
    regimes = classify(published_grid())
    names = regimes.groupby("plr")["regime"].unique()
    assert [list(names[plr]) for plr in PLRS] == [[n] for n in "1 1 1 2A 2A 2B 2B 3 3".split()]
    assert [name for name, _, _ in shades(regimes)] == ["1", "2A", "2B", "3"]


def test_figures_are_drawn_when_asked_for(figures):
    item = figures["accuracy"]
    assert isinstance(item.figure, Figure) and item.figure is item.figure
