"""The page on paper: everything open, two figures a row, no heading alone at a page's end."""

import re

import pytest

from fasttrain.report import write_report

from .pages import CONFIG, PROVENANCE, use_all_pictures
from .synthetic_grids import published_grid

BOTTOM = 34.0
"""points from the edge of the paper to what is printed"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page with every figure that a grid can have."""
    grid = published_grid()
    grid.configuration.update(CONFIG | {"setting": {f"option-{n}": n for n in range(20)}})
    commands = dict.fromkeys(grid.stages["stage"], "fasttrain sweep digits --store runs/x")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_all_pictures(monkeypatch)
        folder = tmp_path_factory.mktemp("paper")
        return write_report(folder, [grid], PROVENANCE, commands=commands)


def _printed(page, **options) -> tuple[list[bytes], list[tuple[str, bytes, float]]]:
    """The pages of the PDF, and of every heading its words, its page and its height on that."""
    data = page.pdf(format="A4", tagged=True, outline=True, **options)
    pages = re.findall(rb"(\d+) 0 obj\s*<<\s*/Type /Page\b", data)
    entries = rb"/Title \(([^)]*)\)\s*/Dest \[(\d+) 0 R /XYZ [\d.]+ ([\d.]+) 0\]"
    found = re.findall(entries, data)
    return pages, [
        (title.decode("latin-1"), where, float(height)) for title, where, height in found
    ]


def test_six_to_eight_pages_with_no_orphaned_heading(visit, path):
    page = visit(path.as_uri())
    count = page.locator("figure").count()
    pages, headings = _printed(page)
    assert count >= 13 and 6 <= len(pages) <= 8
    assert {"The grid", "Figures", "Summary", "Terms", "To reproduce"} <= {h for h, *_ in headings}
    # Below each there is room for more than itself: three lines at least.
    assert all(where in pages and height > BOTTOM + 45 for _, where, height in headings)


def test_figures_stand_two_a_row_and_sections_are_open(visit, path):
    page = visit(path.as_uri(), width=703)
    page.emulate_media(media="print")
    boxes = [figure.bounding_box() for figure in page.locator("figure").all()]
    for left, right in zip(boxes[::2], boxes[1::2], strict=False):
        assert left["y"] == pytest.approx(right["y"], abs=2)
        assert left["x"] + left["width"] <= right["x"] + 1
        assert right["x"] + right["width"] <= 704
    assert page.evaluate("document.documentElement.scrollWidth") <= 703
    for name in ("why", "configuration"):
        assert page.locator(f"#setup-s1-{name} table").bounding_box()["height"] > 20
    for hidden in (".all-stages", ".copies", "nav", ".readout"):
        assert page.locator(hidden).first.is_hidden()
    assert page.get_by_role("button").count() == 0


def test_an_open_panel_is_printed_whole(visit, path):
    page = visit(path.as_uri(), width=703)
    page.locator(".heatmap td").first.click()
    page.emulate_media(media="print")
    panel = page.locator(".panel")
    assert panel.locator(".charts svg").count() == 3 and panel.locator("pre").is_visible()
    assert page.evaluate("document.querySelector('.panel').scrollWidth") <= 703
    assert page.evaluate("document.documentElement.scrollWidth") <= 703
