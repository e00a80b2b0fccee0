"""What a grid found, for people: figures, a summary table, sentences, and one offline page."""

from fasttrain.report.cells import heatmap
from fasttrain.report.figures import accuracy_against_plr, save, training_curves
from fasttrain.report.html import write_report
from fasttrain.report.pictures import Pictures
from fasttrain.report.table import rich_table, seed_means, summary

__all__ = [
    "Pictures",
    "accuracy_against_plr",
    "heatmap",
    "rich_table",
    "save",
    "seed_means",
    "summary",
    "training_curves",
    "write_report",
]
