"""What helps to read the page, in a real browser: comparisons, copies, contents, paper."""

import pytest

from .pages import first_section


@pytest.mark.parametrize(
    "words, count",
    [
        ("plr<0.05", 14),
        ("plr<=0.05", 22),
        ("PLR=1e-2", 8),
        ("regime=2A k=2", 2),
        ("test>=72 kind!=finetune", 2),
        ("flr>0.001 seed=1", 4),
        ("flr!=0.001 flr>0", 8),
        ("finetune state=done", 16),
    ],
)
def test_the_table_compares(visit, address, words, count):
    section = first_section(visit(address))
    section.locator(".all-stages > summary").click()
    section.get_by_label("Filter").fill(words)
    assert section.locator(".shown").inner_text() == f"{count} of 30 stages"


def test_a_comparison_with_no_column_says_so(visit, address):
    section = first_section(visit(address))
    section.locator(".all-stages > summary").click()
    section.get_by_label("Filter").fill("rate<1")
    assert section.locator(".shown").inner_text() == "0 of 30 stages; no column rate"


def test_commands_and_tables_are_copied_as_they_stand(visit, address):
    page = visit(address, permissions=["clipboard-read", "clipboard-write"])
    section = first_section(page)

    def copied(place, label: str) -> str:
        button = place.get_by_role("button", name=label, exact=True).element_handle()
        button.click()
        page.wait_for_function("button => button.textContent == 'copied'", arg=button)
        return page.evaluate("navigator.clipboard.readText()")

    section.locator(".heatmap tbody tr:nth-child(1) td").nth(2).click()
    panel = section.locator(".panel")
    assert copied(panel, "Copy") == panel.locator("pre").inner_text()
    stages = section.locator(".all-stages")
    stages.locator("> summary").click()
    section.get_by_label("Filter").fill("plr=0.05 k=2")
    section.get_by_role("columnheader", name="seed").get_by_role("button").click()
    lines = copied(stages, "Copy CSV").split("\n")
    assert lines[0].startswith("kind,PLR,regime,FLR,k,seed") and len(lines) == 3
    assert [line[:18] for line in lines[1:]] == ["swa,0.05,2A,–,2,0,", "swa,0.05,2A,–,2,1,"]
    rows = copied(stages, "Copy Markdown").split("\n")
    assert rows[1].count("---") == 15 and rows[2].startswith("| swa | 0.05 | 2A | – | 2 | 0 |")
    latex = copied(stages, "Copy LaTeX").split("\n")
    assert latex[0] == r"\begin{tabular}{" + "r" * 15 + "}" and r"train \%" in latex[1]
    assert latex[2].endswith(r" \\") and latex[-1] == r"\end{tabular}"


def test_only_what_scrolls_is_a_tab_stop(visit, address):
    page = visit(address, width=1400)
    section = first_section(page)
    scroll = section.locator(".scroll")
    assert section.locator(".scroll[tabindex='0']").count() == 0
    section.locator(".all-stages > summary").click()
    page.set_viewport_size({"width": 390, "height": 800})
    stages = section.locator(".all-stages .scroll")
    page.wait_for_function("box => box.tabIndex == 0", arg=stages.element_handle())
    wide = scroll.evaluate_all("all => all.map((one) => one.scrollWidth > one.clientWidth)")
    stops = scroll.evaluate_all("all => all.map((one) => one.tabIndex == 0)")
    assert wide == stops and any(wide)
    # Figures fit instead.
    widths = page.locator("figure img").evaluate_all("all => all.map((one) => one.width)")
    assert max(widths) <= 390


def test_contents_open_what_they_lead_to(visit, address):
    page = visit(address)
    section = first_section(page)
    section.locator(".heatmap td").first.click()
    page.get_by_role("navigation").get_by_role("link", name="All stages").first.click()
    section.locator(".stages tbody tr").first.wait_for()
    # What is chosen stays in the address.
    page.wait_for_function("location.hash.includes('cell')")


def test_on_paper_reasons_and_configuration_are_open(visit, address):
    page = visit(address)
    section = first_section(page)
    page.emulate_media(media="print")
    for part in ("why", "configuration"):
        box = section.locator(f"#setup-s1-{part} table").bounding_box()
        assert box and box["height"] > 20
    assert section.locator(".all-stages").is_hidden()
    assert page.get_by_role("navigation").is_hidden()


def test_cells_are_compared(visit, address):
    page = visit(address)
    comparison = page.locator("#comparison")
    assert comparison.is_hidden()
    section = first_section(page)

    def compare(place, row: int, column: int) -> None:
        place.locator(f".heatmap tbody tr:nth-child({row}) td").nth(column).click()
        place.get_by_role("button", name="Compare").click()

    compare(section, 1, 0)
    compare(section, 1, 2)
    compare(section, 1, 2)
    compare(page.locator("section").nth(1), 3, 2)
    entries = comparison.locator("li")
    assert entries.count() == 3
    first, second, third = entries.all_inner_texts()
    assert "PLR 0.001, FLR 0.01: 60.50 ± 0.71 %" in first and "over the first" not in first
    assert "Set-up s1" in first and "Set-up </script>" in third
    # Seed by seed both differ by the same.
    assert "+15.00 ± 0.00 points over the first, seed by seed, n = 2" in second
    assert "+5.00 ± 0.00 points over the first, seed by seed, n = 2" in third
    charts = comparison.locator("svg[role=img]")
    assert charts.count() == 3
    lines = charts.nth(1).locator("polyline")
    looks = [line.get_attribute("class") for line in lines.all()]
    assert looks == ["line s0"] * 2 + ["line s1"] * 2 + ["line s2"] * 2
    # Of what was pre-trained alone there is nothing after it.
    epochs = [len(line.get_attribute("points").split()) for line in lines.all()]
    assert epochs == [6, 6, 6, 6, 3, 3]
    page.reload()
    assert entries.all_inner_texts() == [first, second, third]
    for _ in range(3):
        comparison.get_by_role("button", name="Remove").first.click()
    assert comparison.is_hidden() and "compared" not in page.url
