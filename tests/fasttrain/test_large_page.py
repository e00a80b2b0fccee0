"""The page of a grid of 32 x 16 learning rates, with everything analysed and drawn for real."""

import html
import json
import re

import numpy as np
import pytest

from fasttrain.report import write_report
from fasttrain.report.figures import DRAWINGS
from fasttrain.report.page.sample import FEWEST

from .pages import PROVENANCE, decreed, make_grid, use_all_pictures  # noqa: F401
from .synthetic_grids import published_grid

MAX_BYTES = 2_000_000
FIGURE_BYTES = 860_000
PLRS, FLRS = np.geomspace(1e-5, 1e-1, 32), np.geomspace(1e-5, 3e-2, 16)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    grid = published_grid(tuple(PLRS), tuple(FLRS), (2, 5, 10), range(3), num_epochs=200)
    commands = dict.fromkeys(grid.stages["stage"], "fasttrain sweep digits --store runs/x")
    folder = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_all_pictures(monkeypatch)
        return write_report(folder, [grid], PROVENANCE, commands=commands)


def test_it_is_small_and_whole(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES
    figures = re.findall(r'<img src="([^"]*)"', text)
    assert len(figures) == len(DRAWINGS) and "Not drawn" not in text
    assert sum(map(len, figures)) < FIGURE_BYTES
    assert all(figure.startswith("data:image/svg+xml,") for figure in figures)
    assert "All 1920 stages" in text


@pytest.mark.usefixtures("decreed")
def test_five_seeds_and_averages_leave_room_for_the_figures(tmp_path):
    grid = make_grid(PLRS, FLRS, (2, 5, 10, 20, 50), range(5), num_epochs=70)
    assert len(grid.stages) == 3520
    path = write_report(tmp_path, [grid], PROVENANCE)
    assert path.stat().st_size < MAX_BYTES - FIGURE_BYTES


def test_every_cell_tells_and_opens(visit, page):
    shown = visit(page.as_uri(), reduced_motion="reduce")
    cells = shown.evaluate(
        """() => {
          const panel = document.querySelector(".panel");
          const count = (chart) => chart.querySelectorAll("polyline").length;
          return [...document.querySelectorAll(".heatmap td")].map((cell) => {
            cell.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
            const told = document.querySelector(".readout").textContent;
            cell.click();
            return {
              told, label: cell.ariaLabel, title: panel.querySelector("h4").textContent,
              lines: [...panel.querySelectorAll(".charts svg")].map(count),
              rows: panel.querySelectorAll("tbody tr").length,
              commands: panel.querySelector("pre").textContent.split("\\n").length,
              words: panel.querySelector(".legend").textContent,
            };
          });
        }"""
    )
    assert len(cells) == 32 * (16 + 1 + 3)
    for cell in cells:
        assert cell["told"] == cell["label"] and cell["told"].startswith(cell["title"])
        assert re.search(r": \d+\.\d\d ± \d\.\d\d % \(n = 3 seeds\)", cell["told"])
        assert cell["lines"] == [3, 3, 3] and cell["rows"] == cell["commands"] == 3
        # Fewer points than epochs: it is said how many.
        assert re.search(r"drawn: at most \d\d epochs of each stage", cell["words"])


@pytest.mark.usefixtures("decreed")
@pytest.mark.parametrize(
    ("shape", "which"),
    [((23, 11, 6, 50), "seed 0 to 8"), ((100, 99, 0, 1), "some cells, seed 0")],
)
def test_a_page_of_many_more_stages_is_as_small_and_says_what_it_leaves_out(tmp_path, shape, which):
    num_plr, num_flr, num_k, num_seeds = shape
    rates = (np.geomspace(1e-5, 1e-1, num) for num in (num_plr, num_flr))
    grid = make_grid(*rates, range(2, 2 + num_k), range(num_seeds), num_epochs=2)
    text = write_report(tmp_path, [grid], PROVENANCE).read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES - FIGURE_BYTES * (num_seeds > 1)
    data = json.loads(re.findall(r'type="application/json">(.*?)</script>', text, re.DOTALL)[0])
    num_rows = text.count("<tr><td>pretrain") + text.count("<tr><td>finetune")
    num_rows += text.count("<tr><td>swa")
    which = f"({which}, and what has a note)"
    words = f"{num_rows} of {len(grid.stages)} have a row, a reason and curves here {which}"
    assert text.count(words) == 2 and f"<summary>{num_rows} stages, not all</summary>" in text
    assert len(data["curves"]) == num_rows >= FEWEST
    cells = [cell for row in data["cells"] for cell in row]
    assert len(cells) == num_plr * (num_flr + 1 + num_k)
    places = sorted(place for cell in cells for place, *_ in cell[1])
    assert places == list(range(num_rows))
    # The means are of all seeds.
    counts = {int(n) for n in re.findall(r"\(n = (\d+)", text)}
    assert counts == {num_seeds}


@pytest.mark.usefixtures("decreed")
def test_what_has_a_note_is_shown_where_not_all_is(tmp_path):
    rates = np.geomspace(1e-5, 1e-1, 23), np.geomspace(1e-5, 1e-1, 11)
    grid = make_grid(*rates, (), range(50), num_epochs=2)
    grid.stages.loc[grid.stages["seed"] == 49, "note"] = ["odd"] + [""] * (23 * 12 - 1)
    text = write_report(tmp_path, [grid], PROVENANCE).read_text(encoding="utf-8")
    (noted,) = grid.stages.loc[grid.stages["note"] == "odd", "stage"]
    assert f"<td>{noted}<td>odd\n" in text


@pytest.mark.usefixtures("decreed")
@pytest.mark.parametrize("sign", ["a", "&"])
def test_of_many_long_notes_a_page_has_beginnings(tmp_path, sign):
    rates = np.geomspace(1e-5, 1e-1, 50), np.geomspace(1e-5, 1e-1, 19)
    grid = make_grid(*rates, (), range(5), num_epochs=30)
    assert len(grid.stages) == 5000
    grid.stages["note"] = [f"{at} {sign * 500}"[:500] for at in range(5000)]
    path = write_report(tmp_path, [grid], PROVENANCE)
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES - FIGURE_BYTES
    (length,) = re.findall(r"Notes are cut to (\d+) signs here; results.csv", text)
    notes = [html.unescape(note) for note in re.findall(r"<td>(\d+ (?:a|&amp;)*…)\n", text)]
    assert len(notes) > 1000 and {len(note) for note in notes} == {int(length) + 1}
    assert " of 5000 have a row" in text and "and some of what has a note" in text


@pytest.mark.usefixtures("decreed")
def test_few_notes_are_whole(tmp_path):
    grid = make_grid()
    grid.stages.loc[0, "note"] = "x" * 10_000
    text = write_report(tmp_path, [grid], PROVENANCE).read_text(encoding="utf-8")
    assert "x" * 10_000 in text and "Notes are cut" not in text


@pytest.mark.usefixtures("decreed")
def test_set_ups_share_the_room_of_a_page(tmp_path):
    rates = np.geomspace(1e-5, 1e-1, 30), np.geomspace(1e-5, 1e-1, 20)
    grids = [make_grid(*rates, (), range(4), num_epochs=30, setup=f"s{at}") for at in range(3)]
    path = write_report(tmp_path, grids, PROVENANCE)
    assert sum(len(grid.stages) for grid in grids) == 7560
    assert path.stat().st_size < MAX_BYTES - FIGURE_BYTES
    assert (
        path.read_text(encoding="utf-8").count("of 2520 have a row, a reason and curves here") == 6
    )


@pytest.mark.usefixtures("decreed")
def test_of_many_unfinished_stages_some_are_listed(tmp_path):
    unfinished = [(f"stage {at}", "0 of 2", "failed: no luck") for at in range(2000)]
    path = write_report(tmp_path, [make_grid()], PROVENANCE, unfinished=unfinished)
    text = path.read_text(encoding="utf-8")
    assert "2000 stages begun and not finished, of which 500 are listed" in text
    assert text.count("failed: no luck") == 500
