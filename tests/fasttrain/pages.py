"""Small grids for the page, and regimes of their PLRs by decree: what the page shows is known."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fasttrain.analysis.tables import SetupResults
from fasttrain.machine.files import write_atomically
from fasttrain.report import figures, write_report
from fasttrain.report.page import html, pictures

NAN = float("nan")
PLRS = (1e-3, 1e-2, 5e-2, 0.5)
REGIMES = {1e-3: "1", 1e-2: "1", 5e-2: "2A", 0.5: "3"}
CONFIG = {
    "data": {"dataset": "digits", "flip": False, "crop_padding": 0},
    "network": {"model": "convnet", "width": 8, "radius": 12.0},
    "training": {"epochs": 30, "finetune_epochs": 15, "batch_size": 64, "precision": "fp32"},
    "num_classes": 10,
    "guess_loss": math.log(10),
    "num_train": 1437,
}
EVIL = "</script><img src=x onerror=alert(1)>"
PROVENANCE = {
    "fasttrain": "0.1.0",
    "torch": "2.15.0",
    "commit": None,
    "date": "2026-01-05",
    "time_s": 5025.0,
    "command": "fasttrain sweep digits --plr '1e-4:1:3'",
}


def make_grid(
    plrs: Sequence[float] = PLRS,
    flrs: Sequence[float] = (1e-3, 1e-2),
    ks: Sequence[int] = (2,),
    seeds: Sequence[int] = (0, 1),
    num_epochs: int = 3,
    **names: Any,
) -> SetupResults:
    """A grid whose test accuracies rise with the PLR and differ by 0.01 from seed to seed."""
    noise = np.random.default_rng(0)
    base = {"setup": "s1", "dataset": "digits", "model": "convnet", "width": 8} | names
    stages, epochs = [], []
    for seed in seeds:
        for place, plr in enumerate(plrs):
            cells = [("pretrain", NAN, NAN), *(("finetune", flr, NAN) for flr in flrs)]
            for kind, flr, k in [*cells, *(("swa", NAN, k) for k in ks)]:
                cell = {"kind": kind, "seed": seed, "plr": plr, "flr": flr, "k": k}
                cell |= {"stage": f"{base['setup'].encode().hex():>08.8}{len(stages):08d}"}
                accuracy = 0.5 + 0.3 * place / len(plrs) + 0.01 * seed + 0.1 * (kind == "finetune")
                values = {"train_loss": noise.uniform(), "train_accuracy": noise.uniform()}
                values["train_balanced_accuracy"] = values["train_accuracy"]
                values |= {"test_loss": noise.uniform(), "test_accuracy": accuracy}
                values |= {"grad_norm": noise.uniform(), "distance": 0.1}
                start = 0 if kind == "pretrain" else num_epochs
                ends = {"epoch": start + num_epochs, "epochs": num_epochs}
                stages.append(base | cell | values | ends | {"state": "done", "time_s": 1.5})
                for epoch in range(start + 1, start + num_epochs + 1):
                    row = {name: value * noise.uniform(0.9, 1) for name, value in values.items()}
                    epochs.append(row | cell | {"setup": base["setup"], "epoch": epoch})
    return SetupResults(
        setup=base["setup"],
        configuration=CONFIG,
        stages=pd.DataFrame(stages).assign(stopped=False, note=""),
        epochs=pd.DataFrame(epochs),
    )


def decreed_regimes(results: SetupResults) -> pd.DataFrame:
    """In place of `regimes.classify`: REGIMES, "undecided" for any other PLR."""
    columns = ["stage", "plr", "seed", "regime", "reason", "train_loss"]
    if results.stages.empty:
        return pd.DataFrame(columns=columns)
    rows = results.stages[results.stages["kind"] == "pretrain"]
    regime = [REGIMES.get(plr, "undecided") for plr in rows["plr"]]
    return rows.assign(regime=regime, reason="by decree <i>")[columns]


def decreed_boundaries(regimes: pd.DataFrame) -> pd.DataFrame:
    """In place of `regimes.boundaries`: 1|2 is bracketed, the others are not known."""
    unknown = {"plr": NAN, "low": NAN, "high": NAN, "ratio": NAN, "num_seeds": 0}
    known = {"plr": 0.0224, "low": 1e-2, "high": 5e-2, "ratio": 5.0, "num_seeds": 2}
    return pd.DataFrame(
        [
            {"boundary": "1|2", **known, "note": ""},
            {"boundary": "2A|2B", **unknown, "note": "no PLR of regime 2B"},
            {"boundary": "2|3", **known, "note": "one seed disagrees"},
        ]
    )


@dataclass(frozen=True)
class Figure:
    """In place of a figure of `fasttrain.report.figures`: what the page asks of one."""

    name: str
    csv: bytes
    missing: str = ""
    shades: tuple = ()
    rate: str = "effective"

    @property
    def drawing(self) -> "Figure":
        return self

    title = "Title <of> it"
    published = "a published figure"
    expected = "it rises"
    caption = 'Caption "quoted".'

    @property
    def table(self) -> bytes | None:
        return None if self.missing else self.csv


def few_figures(results: SetupResults, regimes: pd.DataFrame) -> Iterator[Figure]:
    """In place of `figures.drawn`: one that depends on the stages, and one that lacks data."""
    yield Figure("accuracy", results.stages.to_csv().encode())
    yield Figure("barriers", b"", missing="Barriers are missing: run fasttrain analyse.")


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path, Path]:
    """In place of `figures.save`: a rectangle."""
    png, svg, csv = (stem.with_name(stem.name + end) for end in (".png", ".svg", ".csv"))
    write_atomically(png, b"")
    text = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 4" width="90" height="40">'
        '<style>rect{fill:#c00}</style><rect width="9" height="4" style="opacity: 50%"/></svg>'
    )
    write_atomically(svg, text.encode())
    write_atomically(csv, figure.csv)
    return png, svg, csv


@pytest.fixture
def decreed(monkeypatch):
    """Regimes by decree, and figures that take no time."""
    use_decreed(monkeypatch)


def use_decreed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the fixture `decreed`, for those of another scope."""
    monkeypatch.setattr(html, "classify", decreed_regimes)
    monkeypatch.setattr(html, "boundaries", decreed_boundaries)
    use_few_pictures(monkeypatch)


def use_few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that take no time."""
    monkeypatch.setattr(pictures, "drawn", few_figures)
    monkeypatch.setattr(pictures, "save", save_figure)


def use_all_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures as users have them."""
    monkeypatch.setattr(pictures, "drawn", figures.drawn)
    monkeypatch.setattr(pictures, "save", figures.save)


def two_setups(folder: Path) -> str:
    """The address of a page: the second name is hostile, some cells are lost or not finished."""
    grid = make_grid()
    stages = grid.stages[~((grid.stages["kind"] == "swa") & (grid.stages["plr"] == 1e-3))].copy()
    lost = (stages["plr"] == 0.5) & (stages["kind"] == "pretrain")
    stages.loc[lost, ["state", "test_accuracy"]] = ["non-finite", float("nan")]
    grids = [dataclasses.replace(grid, stages=stages), make_grid(setup=EVIL, dataset=EVIL)]
    commands = dict.fromkeys(stages["stage"], "fasttrain sweep digits --store runs/x")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_decreed(monkeypatch)
        path = write_report(folder, grids, PROVENANCE, commands=commands)
    return path.as_uri()


def first_section(page: Any) -> Any:
    """The section of the first set-up, of a page in a browser."""
    return page.locator("#setup-s1")
