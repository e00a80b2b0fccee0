"""What a grid found, for people: figures, a summary table, sentences, and one offline page."""

from fasttrain.report.chains import chain_table
from fasttrain.report.figures import DRAWINGS, drawings_of, drawn, save
from fasttrain.report.page.html import with_status, write_report
from fasttrain.report.seed_means import rich_table, seed_means, summary

__all__ = [
    "DRAWINGS",
    "chain_table",
    "drawings_of",
    "drawn",
    "rich_table",
    "save",
    "seed_means",
    "summary",
    "with_status",
    "write_report",
]
