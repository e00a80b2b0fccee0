"""What a grid found, for people: figures, a summary table, sentences, and one offline page."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasttrain.report.chains import chain_table
    from fasttrain.report.figures import DRAWINGS, drawings_of, drawn, save
    from fasttrain.report.page.html import with_status, write_pages, write_report
    from fasttrain.report.seed_means import rich_table, summary

_PLACES = {
    "chains": ("chain_table",),
    "figures": ("DRAWINGS", "drawings_of", "drawn", "save"),
    "page.html": ("with_status", "write_pages", "write_report"),
    "seed_means": ("rich_table", "summary"),
}
_PLACE = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "DRAWINGS",
    "chain_table",
    "drawings_of",
    "drawn",
    "rich_table",
    "save",
    "summary",
    "with_status",
    "write_pages",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import what is offered when it is first asked for: a report may have nothing to draw."""
    if name not in _PLACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACE[name]}"), name)
