"""A report of more set-ups than a page has room for: further pages, which the first lists."""

import re

import numpy as np
import pandas as pd
import pytest

from fasttrain.report import build as rebuilding
from fasttrain.report import write_pages
from fasttrain.report.page import html, paging
from fasttrain.report.page.sample import _notes
from fasttrain.report.renew import renew
from fasttrain.store.store import Store

from .pages import PROVENANCE, decreed, make_grid, use_decreed  # noqa: F401
from .simulated import simulate, write_study

PLRS, FLRS = (np.geomspace(1e-4, 1e-1, num).tolist() for num in (4, 3))


def _grids(count: int) -> list:
    return [
        make_grid(PLRS, FLRS, (), range(2), num_epochs=5, setup=f"s{at}") for at in range(count)
    ]


def _alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one section for all set-ups, under the name of each, since a section takes a while."""
    made, found = html._section, {}

    def alike(results, *given):
        section = found.setdefault("first", None) or made(results, *given)
        found["first"] = section
        return section | {"id": f"setup-{results.setup}", "setup": results.setup}

    monkeypatch.setattr(html, "_section", alike)


@pytest.mark.parametrize("sign", ["\ud800", "\udc80"])
def test_signs_of_no_encoding_have_a_size(sign):
    assert list(paging.paged([{"id": "a"}, {"id": "b"}], lambda shown: sign)) == ["report.html"]
    notes, words = _notes(pd.Series([sign * 100], dtype=object), 50)
    assert words and len(notes[0]) < 100


@pytest.mark.usefixtures("decreed")
def test_300_set_ups_stand_on_pages_of_bounded_size(tmp_path, monkeypatch):
    _alike(monkeypatch)
    pages = write_pages(tmp_path, _grids(300), PROVENANCE, status=["Finished."])
    assert pages[0].name == "report.html" and 2 < len(pages) < 20
    texts = {page.name: page.read_text(encoding="utf-8") for page in pages}
    assert all(len(text.encode()) < paging.MAX_BYTES for text in texts.values())
    shown = [
        (name, setup)
        for name, text in texts.items()
        for setup in re.findall(r'<section id="setup-(s\d+)">', text)
    ]
    # Each once, in their order, and where the first page says.
    assert [setup for _, setup in shown] == [f"s{at}" for at in range(300)]
    links = re.findall(r'<li><a href="([^"#]*)#setup-(s\d+)">', texts["report.html"])
    assert [(page or "report.html", setup) for page, setup in links] == shown
    for number, text in enumerate(texts.values(), 1):
        assert f"Page {number} of {len(pages)}" in text
        assert set(re.findall(r'href="(report[^"#]*)"', text)) <= set(texts)
        assert text.count('role="status">') >= 1 and ("Finished." in text) == (number == 1)


@pytest.mark.usefixtures("decreed")
def test_what_fits_one_page_is_one(tmp_path):
    [page] = write_pages(tmp_path, _grids(3), PROVENANCE)
    text = page.read_text(encoding="utf-8")
    assert text.count("<section ") == 3 and "Page 1 of" not in text


@pytest.mark.usefixtures("decreed")
def test_a_set_up_that_passes_the_bound_alone_has_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(paging, "MAX_BYTES", 10)
    pages = write_pages(tmp_path, _grids(3), PROVENANCE)
    assert [page.name for page in pages] == ["report.html", "report-2.html", "report-3.html"]
    assert [page.read_text(encoding="utf-8").count("<section ") for page in pages] == [1, 1, 1]


@pytest.mark.usefixtures("decreed")
def test_errors_of_unfinished_stages_are_cut(tmp_path):
    unfinished = [(f"stage {at}", "0 of 2", "failed: " + "e" * 10_000) for at in range(500)]
    [page] = write_pages(tmp_path, _grids(1), PROVENANCE, unfinished=unfinished)
    text = page.read_text(encoding="utf-8")
    assert text.count("failed: eee") == 500 and "e" * 300 not in text
    assert "failed.txt of its stage" in text


def test_pages_belong_to_the_report_and_go_with_their_set_ups(tmp_path, monkeypatch):
    use_decreed(monkeypatch)
    simulate(write_study(tmp_path / "one.toml", 2, 2, 1), tmp_path / "store")
    other = write_study(tmp_path / "two.toml", 2, 2, 1)
    other.write_text(other.read_text().replace("width = 2", "width = 4"))
    added = simulate(other, tmp_path / "store")
    store = Store.open(tmp_path / "store", create=False)
    folder = store.path / "report"
    with monkeypatch.context() as patch:
        patch.setattr(paging, "MAX_BYTES", 10)
        renew(store)
        assert not renew(store).is_new
        (folder / "report-2.html").unlink()
        assert renew(store).is_new and (folder / "report-2.html").exists()
    (folder / "report-9.html").write_text("mine")
    for stage in added:
        store.reopen(stage.id)
    assert renew(store).is_new
    assert sorted(path.name for path in folder.glob("*.html")) == ["report-9.html", "report.html"]
    assert rebuilding.rebuild(store).name == "report.html"
