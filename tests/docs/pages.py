"""The pages of the documentation: their code, their commands, and where their links lead."""

import importlib.util
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "kernels/README.md", "data/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"# (\S+\.(?:py|toml))\n")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def require(*modules: str) -> None:
    """Skip without libraries of extra `docs`; FASTTRAIN_REQUIRE_OPTIONAL=1 makes that a failure."""
    lacking = pytest.fail if os.environ.get("FASTTRAIN_REQUIRE_OPTIONAL") == "1" else pytest.skip
    for module in modules:
        if importlib.util.find_spec(module) is None:
            lacking(f"{module} is missing: make docs")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The code of a page in a language, block by block."""
    return [code for kind, code in _BLOCK.findall(page.read_text("utf-8")) if kind == language]


def named_files(page: Path) -> dict[str, str]:
    """The files that a page shows, by the name in their first line."""
    shown = [*blocks(page, "python"), *blocks(page, "toml")]
    return {name[1]: code for code in shown if (name := _NAME.match(code))}


def scripts(page: Path) -> list[str]:
    """The Python of a page that is no file."""
    return [code for code in blocks(page, "python") if not _NAME.match(code)]


def commands(page: Path) -> list[str]:
    """What a page has a user type after `fasttrain`, without the words on it."""
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    typed = [line.partition(" #")[0].strip() for line in lines]
    return [line.removeprefix("fasttrain ") for line in typed if line.startswith("fasttrain ")]


def links(page: Path) -> list[str]:
    """Where a page leads, beside to other addresses."""
    found = _LINK.findall(_BLOCK.sub("", page.read_text("utf-8")))
    return [link for link in found if ":" not in link]


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
