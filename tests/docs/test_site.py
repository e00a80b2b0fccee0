"""The documentation builds as a site without warnings, and a page of it asks no other address."""

import re
import subprocess
import sys

import pytest

from .pages import ROOT, require

# What a browser fetches by itself when it shows a page.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|audio|video)\b[^>]*\bsrc=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|<link\b(?![^>]*\brel=[\"']?(?:canonical|prev|next)\b)[^>]*\bhref=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)"
)
pytestmark = pytest.mark.optional


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    require("mkdocs", "material", "mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    command += ["--config-file", str(ROOT / "docs" / "site" / "mkdocs.yml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_it_fetches_nothing_from_elsewhere(site):
    pages = [path for suffix in ("html", "css") for path in site.rglob(f"*.{suffix}")]
    assert len(pages) > 30
    fetched = {
        (path.relative_to(site).as_posix(), *match.groups())
        for path in pages
        for match in FETCHED.finditer(path.read_text(encoding="utf-8"))
    }
    assert not fetched


def test_it_has_the_readmes_the_reference_and_linked_source(site):
    assert "make demo" in (site / "index.html").read_text(encoding="utf-8")
    assert "scale_invariant_parameters" in (site / "kernels.html").read_text(encoding="utf-8")
    # From a docstring.
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert "Train what the store has not finished of a study" in python
    rules = site / "source" / "fasttrain" / "analysis" / "rules.py.html"
    assert rules.is_file()
