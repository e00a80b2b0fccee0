"""What the pages say of presets, names and files is so, and their links lead somewhere."""

import re

import pytest

import fasttrain
import fasttrain_kernels
from fasttrain.plan.config import presets
from fasttrain_data import public

from .pages import DOCS, PAGES, ROOT, anchors, links, name_of


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    lost = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


def first_column(text: str) -> list[str]:
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall("`([^`]+)`", cell)]


def test_every_preset_stands_once_in_their_table():
    assert sorted(first_column((DOCS / "reference" / "presets.md").read_text())) == presets()


@pytest.mark.parametrize("page", ["README.md", "docs/results/index.md"])
def test_every_study_is_listed_with_a_preset_that_there_is(page):
    text = (ROOT / page).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| [") and "`" in line]
    names = [re.findall("`([^`]+)`", row.split("|")[3])[0] for row in rows]
    assert {name for name in names if not name.endswith(".toml")} <= set(presets())
    listed = {(ROOT / page).parent / link.partition("#")[0] for link in links(ROOT / page)}
    studies = set((DOCS / "results").glob("*.md")) - {DOCS / "results" / "index.md"}
    assert studies <= {path.resolve() for path in listed}


@pytest.mark.parametrize(
    ("page", "module"),
    [("python", fasttrain), ("kernels", fasttrain_kernels), ("data", public)],
)
def test_the_reference_has_every_public_name(page, module):
    text = (DOCS / "reference" / f"{page}.md").read_text()
    named = [line.rpartition(".")[2] for line in text.splitlines() if line.startswith("::: ")]
    assert {name for name in module.__all__ if not name.startswith("_")} <= set(named)


def test_the_examples_are_all_on_their_page():
    listed = {(DOCS / "how-to" / link).resolve() for link in links(DOCS / "how-to" / "examples.md")}
    files = {
        path
        for folder in ("examples", "notebooks", "docker")
        for path in (DOCS / folder).rglob("*.*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= listed
