"""The report's script stays small enough to read, and is all of the page's own."""

import re
from importlib.resources import files

from fasttrain.report.page import html

MOST_LINES = 500


def _scripts() -> dict[str, str]:
    folder = files("fasttrain.report.page")
    return {f.name: f.read_text() for f in folder.iterdir() if f.name.endswith(".js")}


def test_the_script_has_at_most_500_lines_of_code():
    lines = [line for text in _scripts().values() for line in text.splitlines()]
    code = [line for line in lines if not re.fullmatch(r"\s*(//.*)?", line)]
    assert 300 < len(code) <= MOST_LINES
    assert max(map(len, lines)) <= 100


def test_every_script_is_in_the_page_and_none_is_a_library():
    assert set(html._SCRIPTS) == set(_scripts())
    whole = "".join(_scripts().values())
    assert len(whole) < 60_000 and "import" not in whole and "https://" not in whole
