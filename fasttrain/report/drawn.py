from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from fasttrain.analysis.tables import Grid
from fasttrain.report.cells import heatmap
from fasttrain.report.figures import accuracy_against_plr, training_curves
from fasttrain.report.figures import save as save_figure


@dataclass(frozen=True)
class Drawing:
    name: str
    title: str
    caption: str
    published: str


@dataclass(frozen=True)
class Drawn:
    drawing: Drawing
    table: pd.DataFrame | None
    draw: Callable[[], Figure] | None = None
    missing: str = ""
    shades: tuple = ()

    @property
    def caption(self):
        return self.drawing.caption

    @property
    def csv(self):
        return b"" if self.table is None else self.table.to_csv(index=False).encode()


def save(item, stem):
    png, svg = save_figure(item.draw(), stem)
    csv = png.with_suffix(".csv")
    csv.write_bytes(item.csv)
    return png, svg, csv


def drawn(grid: Grid) -> Iterator[Drawn]:
    yield Drawn(
        Drawing("accuracy", "Accuracy against PLR", "Caption.", "WDL, figure 1"),
        grid.stages,
        lambda: accuracy_against_plr(grid.stages, grid.configuration.get("num_classes")),
    )
    if (grid.stages["kind"] == "finetune").any():
        yield Drawn(
            Drawing("heatmap", "Heatmap", "Caption.", ""), grid.stages, lambda: heatmap(grid.stages)
        )
    else:
        yield Drawn(Drawing("heatmap", "Heatmap", "Caption.", ""), None, missing="No fine-tuning.")
    if len(grid.epochs):
        yield Drawn(
            Drawing("curves", "Curves", "Caption.", ""),
            grid.epochs,
            lambda: training_curves(grid.epochs, grid.stages),
        )
