"""The page in a real browser: what moves, by mouse, by keyboard and on a phone."""

import dataclasses

import pytest

from fasttrain.report import write_report

from .pages import EVIL, PROVENANCE, first_section, make_grid, use_decreed


def _column(section, name: str) -> list[str]:
    """The visible values under a heading."""
    headings = section.locator(".stages thead th").all_inner_texts()
    place = [text.strip() for text in headings].index(name) + 1
    return section.locator(f".stages tbody tr:visible td:nth-child({place})").all_inner_texts()


def test_a_cell_tells_its_figures_and_opens(visit, address):
    page = visit(address)
    section = first_section(page)
    readout, panel = section.locator(".readout"), section.locator(".panel")
    cell = section.locator(".heatmap tbody tr:nth-child(1) td").nth(2)
    hint = readout.inner_text()
    cell.hover()
    words = "PLR 0.05, FLR 0.01: 75.50 ± 0.71 % (n = 2 seeds), done; PLR in regime 2A"
    assert readout.inner_text().startswith(words)
    assert cell.get_attribute("aria-label") == readout.inner_text()
    page.mouse.move(0, 0)
    assert readout.inner_text() == hint and panel.is_hidden()
    cell.click()
    assert panel.locator("h4").inner_text() == "PLR 0.05, FLR 0.01"
    # Three charts, each with a line per seed through pre-training and fine-tuning.
    charts = panel.locator(".charts svg")
    assert charts.count() == 3
    for index in range(3):
        lines = charts.nth(index).locator("polyline")
        assert lines.count() == 2
        assert len(lines.first.get_attribute("points").split()) == 6
        assert charts.nth(index).locator(".second").count() == 1
        assert len(set(charts.nth(index).locator(".tick.end").all_text_contents())) >= 2
    assert panel.locator("tbody tr").count() == 2
    assert panel.locator("tbody td:nth-child(4)").all_inner_texts() == ["0.01", "0.01"]
    command = "fasttrain train digits --store runs/x --plr 0.05 --flr 0.01 --seed"
    assert panel.locator("pre").inner_text() == f"{command} 0\n{command} 1"
    panel.get_by_role("button", name="Close").click()
    assert panel.is_hidden()


@pytest.mark.parametrize(
    "loss, accuracy",
    [(2.31, 0.55), (0.001, 0.0), (3e-7, 1.0), (11.0, 0.9996)],
    ids=["narrow", "nothing", "perfect", "nearly"],
)
@pytest.mark.parametrize("rise", [1.0, 1.0003, 1.04])
def test_every_chart_has_ticks_and_lines_inside(visit, tmp_path, monkeypatch, loss, accuracy, rise):
    use_decreed(monkeypatch)
    grid = make_grid(plrs=(1e-2,), flrs=(), ks=(), seeds=(0,))
    steps = rise ** (grid.epochs["epoch"] / 3)
    values = {"train_loss": loss * steps, "grad_norm": 1e3 * steps}
    values["test_accuracy"] = (accuracy * steps).clip(upper=1)
    path = write_report(
        tmp_path, [dataclasses.replace(grid, epochs=grid.epochs.assign(**values))], PROVENANCE
    )
    page = visit(path.as_uri())
    page.locator(".heatmap td").first.click()
    charts = page.locator(".panel .charts svg")
    assert charts.count() == 3
    for chart in charts.all():
        ticks = chart.locator(".tick.end").all_text_contents()
        assert len(ticks) == len(set(ticks)) >= 2
        points = chart.locator("polyline").get_attribute("points").split()
        assert all(0 <= float(y) <= 220 for _, y in (point.split(",") for point in points))


def test_cells_without_results_say_why(visit, address):
    page = visit(address)
    section = first_section(page)
    panel = section.locator(".panel")
    rows = section.locator(".heatmap tbody tr")
    rows.nth(2).locator("td").nth(3).click()
    assert "no finite accuracy, non-finite" in panel.inner_text()
    assert "no finite value" not in panel.locator("svg").first.inner_html()
    rows.nth(3).locator("td").nth(0).click()
    assert (
        "no result, not finished" in panel.inner_text()
        and panel.locator("svg:visible").count() == 0
    )
    assert "--plr 0.001 --k 2 --seed 0" in panel.locator("pre").inner_text()
    # Of the other set-up no command is recorded.
    page.locator("section").nth(1).locator(".heatmap td").nth(0).click()
    assert "no command of a sweep is recorded" in page.locator(".panel:visible").nth(1).inner_text()


def test_the_heatmap_by_keyboard(visit, address):
    page = visit(address)
    section = first_section(page)
    assert section.locator(".heatmap [tabindex='0']").count() == 1
    section.locator(".heatmap [tabindex='0']").focus()

    def label() -> str:
        return page.evaluate("document.activeElement.getAttribute('aria-label')").split(":")[0]

    for key, place in (
        ("ArrowRight", "PLR 0.01, FLR 0.01"),
        ("ArrowDown", "PLR 0.01, FLR 0.001"),
        ("End", "PLR 0.5, FLR 0.001"),
        ("ArrowRight", "PLR 0.5, FLR 0.001"),
        ("ArrowDown", "PLR 0.5, pre-trained"),
        ("Home", "PLR 0.001, pre-trained"),
        ("ArrowUp", "PLR 0.001, FLR 0.001"),
    ):
        page.keyboard.press(key)
        assert label() == place
    assert section.locator(".heatmap [tabindex='0']").count() == 1
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    panel = section.locator(".panel")
    assert panel.is_visible() and label() == "PLR 0.001, FLR 0.001"
    assert section.locator(".heatmap [aria-selected]").count() == 1
    # From inside the panel too, and back to the cell.
    panel.get_by_role("button", name="Close").focus()
    page.keyboard.press("Escape")
    assert panel.is_hidden() and label() == "PLR 0.001, FLR 0.001"
    grid = section.get_by_role("grid")
    assert grid.get_by_role("row").count() == 6 and grid.get_by_role("gridcell").count() == 16
    assert grid.get_by_role("rowheader").all_inner_texts()[0] == "FLR 0.01"


def test_the_table_sorts_numbers_by_value(visit, address):
    page = visit(address)
    section = first_section(page)
    section.locator(".all-stages > summary").click()
    heading = section.get_by_role("columnheader", name="train loss")
    heading.get_by_role("button").press("Enter")
    values = [float(text) for text in _column(section, "train loss")]
    assert values == sorted(values) and len(values) == 30
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.get_by_role("button").press("Enter")
    values = [float(text) for text in _column(section, "train loss")]
    assert values == sorted(values, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    # What is missing comes last either way.
    flr = section.get_by_role("columnheader", name="FLR").get_by_role("button")
    for expected in (["0.001"] * 8 + ["0.01"] * 8, ["0.01"] * 8 + ["0.001"] * 8):
        flr.click()
        assert _column(section, "FLR") == expected + ["–"] * 14
    assert section.locator("[aria-sort]").count() == 1


def test_the_table_filters(visit, address):
    page = visit(address)
    section = first_section(page)
    section.locator(".all-stages > summary").click()
    section.locator("select[name=kind]").select_option("swa")
    assert set(_column(section, "kind")) == {"swa"}
    assert section.locator(".shown").inner_text() == "6 of 30 stages"
    section.locator("select[name=regime]").select_option("2A")
    assert section.locator(".shown").inner_text() == "2 of 30 stages"
    section.locator("select[name=kind]").select_option("")
    section.get_by_label("Filter").fill("FINETUNE 0.01")
    assert set(_column(section, "kind")) == {"finetune"}
    assert section.locator(".shown").inner_text() == "2 of 30 stages"
    section.get_by_label("Filter").fill("")
    section.locator("select[name=regime]").select_option("")
    section.locator("select[name=state]").select_option("non-finite")
    assert _column(section, "PLR") == ["0.5", "0.5"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_only_tables_sideways(visit, address, scheme):
    page = visit(address, width=360, color_scheme=scheme, reduced_motion="reduce")
    first_section(page).locator(".heatmap td").nth(1).click()
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


def test_names_do_nothing(visit, address):
    """What they would do is a dialog or a request, which `visit` does not let pass."""
    page = visit(address)
    page.locator("section").nth(1).locator(".heatmap td").first.click()
    assert EVIL in page.locator("h2").nth(1).inner_text()
    assert page.locator("img").count() == 2
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth == 90)")


def test_without_a_script_tables_and_figures_remain(visit, address):
    page = visit(address, java_script_enabled=False)
    section = first_section(page)
    assert section.locator(".heatmap td").first.inner_text() == "60.50"
    assert section.locator(".readout").is_hidden() and section.locator(".filter").is_hidden()
    section.locator(".all-stages > summary").click()
    assert section.locator(".stages tbody tr:visible").count() == 30


def test_what_is_open_and_chosen_survives_a_reload(visit, tmp_path, monkeypatch):
    """Of a grid that has grown by a learning rate meanwhile."""
    use_decreed(monkeypatch)
    waiting = {"unfinished": [("pretrain plr 0.001 seed 0", "2 of 3", "begun")]}
    path = write_report(tmp_path, [make_grid(plrs=(1e-2, 4e-2))], PROVENANCE, **waiting)
    page = visit(path.as_uri())
    section = first_section(page)
    for summary in page.locator("summary").all():
        summary.click()
    section.get_by_role("columnheader", name="test %").get_by_role("button").click()
    section.locator("select[name=kind]").select_option("finetune")
    section.locator(".heatmap tbody tr:nth-child(2) td").nth(1).click()
    section.get_by_label("Filter").fill("0.04")
    write_report(tmp_path, [make_grid(plrs=(1e-3, 1e-2, 4e-2))], PROVENANCE, **waiting)
    page.reload()
    opened = page.locator("details").evaluate_all("all => all.map((one) => one.open)")
    assert opened == [False, True, True, True, True]
    assert section.locator(".heatmap thead .rate").count() == 3
    assert section.locator(".panel h4").inner_text() == "PLR 0.04, FLR 0.001"
    assert section.locator(".shown").inner_text() == "4 of 24 stages"
    values = [float(text) for text in _column(section, "test %")]
    assert values == sorted(values) and len(values) == 4
    assert page.evaluate("document.activeElement.name") == "text"
    # Closed again, nothing of it is left to remember.
    page.keyboard.press("Escape")
    assert "cell" not in page.url and "sort" in page.url


def test_in_watch_mode_the_page_reloads_itself(visit, tmp_path, monkeypatch):
    use_decreed(monkeypatch)
    path = write_report(tmp_path, [make_grid(plrs=(1e-2, 4e-2))], PROVENANCE, refresh_s=1)
    page = visit(f"{path.as_uri()}#setup-s1.cell=0.04+--flr+0.001")
    write_report(tmp_path, [make_grid(plrs=(1e-3, 1e-2, 4e-2))], PROVENANCE, refresh_s=1)
    # It appears with no reload asked for here.
    page.locator(".heatmap thead .rate").nth(2).wait_for()
    assert page.locator(".panel h4").inner_text() == "PLR 0.04, FLR 0.001"


@pytest.mark.parametrize("width", [390, 1400])
def test_the_reader_s_place_stays_when_parts_above_it_grow(visit, tmp_path, monkeypatch, width):
    use_decreed(monkeypatch)
    path = write_report(
        tmp_path, [make_grid(plrs=(1e-2, 4e-2), flrs=(1e-3,))], PROVENANCE, refresh_s=2
    )
    page = visit(path.as_uri(), width=width)
    section = first_section(page)
    section.locator(".all-stages > summary").click()
    section.locator(".scatter > summary").click()
    section.get_by_label("Filter").fill("kind=finetune")
    section.locator(".stages tbody tr:visible").last.scroll_into_view_if_needed()
    top = "document.querySelector('.all-stages .filter').getBoundingClientRect().top"
    before = page.evaluate(f"scrollTo(0, scrollY + {top} + 100); [scrollY, {top}]")
    grid = make_grid(flrs=(1e-3, 2e-3, 5e-3, 1e-2))
    write_report(tmp_path, [grid], PROVENANCE, refresh_s=2, status=["Running."] * 9)
    page.locator(".heatmap thead .rate").nth(3).wait_for()
    page.wait_for_function("!location.hash.includes('at=')")
    after = page.evaluate(f"[scrollY, {top}]")
    assert after[1] == pytest.approx(before[1], abs=2) and after[0] > before[0] + 100
    assert section.get_by_label("Filter").input_value() == "kind=finetune"
    assert page.evaluate("document.activeElement.name") == "text"
    assert section.locator(".mark[role=button]").count() == 32
