"""The scatter of two columns, and copies of figures, in a real browser."""

import numpy as np
import pytest

from fasttrain.report import write_report

from .pages import PROVENANCE, decreed, first_section, make_grid, use_decreed  # noqa: F401

WIDTHS = [390, 1400]


def _opened(page):
    section = first_section(page)
    section.locator(".all-stages > summary").click()
    section.locator(".scatter > summary").click()
    section.locator(".mark[role=button]").first.wait_for()
    return section


def _choose(section, **columns: str) -> None:
    for name, column in columns.items():
        section.locator(f".scatter select[name={name}]").select_option(column)


def _label(page) -> str:
    return page.evaluate("document.activeElement.ariaLabel")


@pytest.mark.parametrize("width", WIDTHS)
def test_two_columns_are_drawn_of_the_rows_that_are_left(visit, address, width):
    page = visit(address, width=width)
    section = _opened(page)
    marks = section.locator(".mark[role=button]")
    # Two have no finite accuracy.
    assert marks.count() == 28
    assert (
        section.locator(".plot svg").get_attribute("aria-label") == "test % against PLR: 28 stages"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == width
    box = section.locator(".plot svg").bounding_box()
    assert box["width"] > 0.85 * min(width, 720)
    # On a log axis equal ratios are equal ways.
    places = sorted({round(mark.bounding_box()["x"]) for mark in marks.all()})
    ways = np.diff(places) / np.diff(np.log([1e-3, 1e-2, 5e-2, 0.5]))
    assert len(places) == 4 and np.ptp(ways) < 1
    section.get_by_label("Filter").fill("kind=finetune plr<0.1")
    assert marks.count() == 12
    _choose(section, x="seed", y="FLR", colour="test %")
    assert marks.count() == 12 and "FLR against seed" in section.locator(".plot svg").get_attribute(
        "aria-label"
    )
    _choose(section, x="k")
    assert marks.count() == 0
    assert "no finite value" in section.locator(".plot svg").text_content()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_mark_leads_to_its_row(visit, address, width):
    page = visit(address, width=width, reduced_motion="reduce")
    section = _opened(page)
    _choose(section, x="train loss", y="gradient norm")
    mark = section.locator(".mark[role=button]").nth(7)
    mark.hover(force=True)
    told = section.locator(".pointed").inner_text()
    assert told == mark.get_attribute("aria-label") and told.startswith("kind ")
    mark.click(force=True)
    row = page.locator("tr:focus")
    assert row.count() == 1 and row.bounding_box()["y"] < 800
    cells = row.locator("td").all_inner_texts()
    values = dict(zip(section.locator(".stages th").all_inner_texts(), cells, strict=True))
    values = {name.strip(): text for name, text in values.items()}
    shown = ("kind", "PLR", "regime", "FLR", "k", "seed", "train loss", "gradient norm")
    assert told == ", ".join(f"{n} {values[n]}" for n in shown if values[n] != "–")


def test_the_scatter_by_keyboard(visit, address):
    page = visit(address)
    section = _opened(page)
    _choose(section, x="train loss")
    assert section.locator(".mark[tabindex='0']").count() == 1
    section.locator(".scatter select").last.focus()
    page.keyboard.press("Tab")

    def loss() -> float:
        return float(_label(page).split("train loss ")[1].split(",")[0])

    first = loss()
    page.keyboard.press("ArrowRight")
    second = loss()
    assert section.locator(".pointed").inner_text() == _label(page)
    page.keyboard.press("End")
    last = loss()
    page.keyboard.press("ArrowRight")
    assert first < second < last == loss()
    page.keyboard.press("Home")
    assert loss() == first and section.locator(".mark[tabindex='0']").count() == 1
    outline = page.evaluate("getComputedStyle(document.activeElement).strokeWidth")
    page.keyboard.press("Enter")
    assert outline == "3px" and page.locator("tr:focus").count() == 1


def test_colours_of_accuracies_are_those_of_the_grid(visit, tmp_path, monkeypatch):
    """Of one seed, so that a cell of the grid is a stage; words have a mark of their own each."""
    use_decreed(monkeypatch)
    grid = make_grid(seeds=(0,))
    # The colours of the grid begin above what is at chance.
    grid.stages.loc[grid.stages["test_accuracy"] < 0.6, ["state", "test_accuracy"]] = [
        "at-chance",
        0.1,
    ]
    path = write_report(tmp_path, [grid], PROVENANCE)
    section = _opened(visit(path.as_uri()))
    marks = section.locator(".mark[role=button]")
    words = {tuple(mark.get_attribute("class").split()) for mark in marks.all()}
    shapes = {mark.get_attribute("d") for mark in marks.all()}
    assert len(words) == len(shapes) == 3
    assert section.locator(".scatter .legend").inner_text().split() == ["1", "2A", "3"]
    _choose(section, colour="test %")
    classes = [mark.get_attribute("class").split()[1] for mark in marks.all()]
    cells = section.locator(".heatmap td")
    grid = [cell.get_attribute("class").split()[0] for cell in cells.all()]
    assert sorted(classes) == sorted(grid) and len(set(grid)) > 5
    colour = "e => [getComputedStyle(e).fill, getComputedStyle(e).backgroundColor]"
    fill, background = cells.first.evaluate(colour)
    assert fill == background
    # A column of which some stages have no value.
    _choose(section, colour="FLR")
    assert len({mark.get_attribute("class") for mark in marks.all()}) == 3


def test_thousands_of_stages_are_drawn_once_a_choice(visit, tmp_path, monkeypatch):
    use_decreed(monkeypatch)
    plrs, flrs = (np.geomspace(1e-4, high, count).tolist() for high, count in ((1, 40), (1e-2, 9)))
    grid = make_grid(plrs, flrs, (), range(5), num_epochs=1)
    assert len(grid.stages) == 2000
    page = visit(write_report(tmp_path, [grid], PROVENANCE).as_uri())
    section = _opened(page)
    drawn = page.evaluate(
        """() => {
          const plot = document.querySelector(".plot");
          let count = 0;
          const seen = new MutationObserver((changes) => (count += changes.length));
          seen.observe(plot, { childList: true });
          const choice = document.querySelector(".scatter select");
          choice.value = "train loss";
          choice.dispatchEvent(new Event("input"));
          return { marks: plot.querySelectorAll(".mark").length, drawn: seen.takeRecords().length };
        }"""
    )
    assert drawn == {"marks": 2000, "drawn": 1}
    assert section.locator(".mark[tabindex='0']").count() == 1


def test_what_is_chosen_survives_a_reload_and_leads_from_the_contents(visit, address):
    page = visit(address)
    page.get_by_role("navigation").get_by_role("link", name="Scatter").first.click()
    section = first_section(page)
    section.locator(".mark[role=button]").first.wait_for()
    _choose(section, x="epoch", colour="seed")
    label = section.locator(".plot svg").get_attribute("aria-label")
    page.reload()
    section.locator(".mark[role=button]").first.wait_for()
    assert section.locator(".plot svg").get_attribute("aria-label") == label
    values = section.locator(".scatter select").evaluate_all("all => all.map((one) => one.value)")
    assert values == ["epoch", "test %", "seed"]


PNG = """async () => {
  const [item] = await navigator.clipboard.read();
  const bitmap = await createImageBitmap(await item.getType("image/png"));
  return [item.types, bitmap.width, bitmap.height];
}"""


def test_a_figure_is_copied_as_png(visit, address):
    page = visit(address, permissions=["clipboard-read", "clipboard-write"])
    button = page.get_by_role("button", name="Copy PNG").first.element_handle()
    button.click()
    page.wait_for_function("button => button.textContent == 'copied'", arg=button)
    # Twice the size that it has.
    assert page.evaluate(PNG) == [["image/png"], 180, 80]


def test_where_no_image_can_be_copied_it_is_downloaded(visit, address):
    page = visit(address)
    page.evaluate("() => { navigator.clipboard.write = () => Promise.reject(new Error('no')); }")
    with page.expect_download() as download:
        page.get_by_role("button", name="Copy PNG").first.click()
    assert download.value.suggested_filename == "setup-s1-accuracy.png"
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
