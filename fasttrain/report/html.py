"""One page that holds a whole grid: works offline, needs no other file, loads nothing.

`write_report` draws the figures of every set-up, writes them as PNG and SVG, and renders
`report.html.j2` with the pictures inside. All text is escaped: names of data sets come from users.
"""

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template

from fasttrain.analysis.tables import Grid
from fasttrain.files import write_atomically
from fasttrain.report.figures import Drawn, drawn, save
from fasttrain.report.table import (
    CELL_KEYS,
    SUMMARY_HEADINGS,
    floats,
    headline,
    number,
    summary,
    summary_rows,
)

# Vector pictures stay sharp, but long training curves would make a page that no phone opens.
MAX_EMBEDDED_SVG_BYTES = 400_000
# Heading, column of the table, scale, format.
_STAGE_COLUMNS = (
    ("kind", "kind", None, "{}"),
    ("PLR", "plr", 1, "{:.3g}"),
    ("FLR", "flr", 1, "{:.3g}"),
    ("k", "k", 1, "{:.0f}"),
    ("seed", "seed", 1, "{:.0f}"),
    ("epoch", "epoch", 1, "{:.0f}"),
    ("train loss", "train_loss", 1, "{:.4g}"),
    ("train %", "train_accuracy", 100, "{:.2f}"),
    ("test loss", "test_loss", 1, "{:.4g}"),
    ("test %", "test_accuracy", 100, "{:.2f}"),
    ("gradient norm", "grad_norm", 1, "{:.4g}"),
    ("time (s)", "time_s", 1, "{:.1f}"),
    ("state", "state", None, "{}"),
    ("stage", "stage", None, "{}"),
)


def write_report(
    folder: str | os.PathLike[str],
    stages: pd.DataFrame,
    epochs: pd.DataFrame,
    setups: Mapping[str, Mapping[str, Any]],
    provenance: Mapping[str, Any],
) -> Path:
    """Write `folder`/report.html and `folder`/figures/*.png and *.svg; returns the page's path.

    `stages` has one row per finished stage, `epochs` one per stage and epoch, `setups` the nested
    configuration of each set-up, whose entry `num_classes` gives the chance level, and
    `provenance` what made the results, with `time_s` in seconds and the `command` to repeat it.
    Every set-up has its section, even without a finished stage. The page appears whole or not at
    all. Raises ValueError if a set-up repeats a seed of a cell.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    found = [] if stages.empty else list(stages["setup"].unique())
    identifiers = [*setups, *(name for name in found if name not in setups)]
    page = _template().render(
        sections=[
            _section(folder / "figures", name, _of(stages, name), epochs, setups.get(name, {}))
            for name in identifiers
        ],
        num_stages=len(stages),
        summary_headings=SUMMARY_HEADINGS,
        stage_headings=[heading for heading, *_ in _STAGE_COLUMNS],
        provenance=_provenance(provenance),
        command=provenance.get("command"),
    )
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return path


def _template() -> Template:
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    source = files("fasttrain.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _of(stages: pd.DataFrame, setup: str) -> pd.DataFrame:
    return stages if stages.empty else stages[stages["setup"] == setup]


def _section(
    folder: Path,
    setup: str,
    stages: pd.DataFrame,
    epochs: pd.DataFrame,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """What the template shows of one set-up; writes its figures on the way."""
    settings = _flatten(config)
    section = {"setup": setup, "title": _title(setup, stages), "settings": settings}
    if stages.empty:
        return section | {"headline": headline(stages), "figures": [], "summary": [], "stages": []}
    grid = Grid(
        setup=setup,
        configuration=dict(config),
        stages=stages,
        epochs=epochs if epochs.empty else epochs[epochs["setup"] == setup],
    )
    return section | {
        "headline": headline(stages),
        "figures": [_embedded(folder, setup, d) for d in drawn(grid) if d.table is not None],
        "summary": summary_rows(summary(stages)),
        "stages": _stage_rows(stages),
    }


def _title(setup: str, stages: pd.DataFrame) -> str:
    if stages.empty:
        return f"Set-up {setup}"
    first = stages.iloc[0]
    return f"{first['model']} of width {first['width']} on {first['dataset']}"


def _embedded(folder: Path, setup: str, drawing: Drawn) -> dict[str, str]:
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", setup)
    if safe != setup:
        # Two names may become one once their odd characters are gone.
        safe += "-" + hashlib.sha256(setup.encode()).hexdigest()[:8]
    png, svg, _ = save(drawing, folder / f"{safe}-{drawing.drawing.name}")
    picture, kind = (
        (svg, "svg+xml") if svg.stat().st_size <= MAX_EMBEDDED_SVG_BYTES else (png, "png")
    )
    data = base64.b64encode(picture.read_bytes()).decode()
    return {
        "caption": drawing.caption,
        "file": f"figures/{png.stem}",
        "uri": f"data:image/{kind};base64,{data}",
    }


def _flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (dotted key, text) pairs, in its order."""
    pairs = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", "–" if value is None else str(value)))
    return pairs


def _stage_rows(stages: pd.DataFrame) -> list[list[str]]:
    kinds = {kind: place for place, kind in enumerate(CELL_KEYS)}
    ordered = stages.assign(order=stages["kind"].map(kinds))
    ordered = ordered.sort_values(["order", "plr", "flr", "k", "seed"])
    columns = []
    for _, name, scale, layout in _STAGE_COLUMNS:
        if scale is None:
            columns.append([layout.format(value) for value in ordered[name]])
        else:
            values = scale * floats(ordered[name])
            columns.append(["–" if value != value else layout.format(value) for value in values])
    return [list(row) for row in zip(*columns, strict=True)]


def _provenance(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = {key: value for key, value in provenance.items() if key not in ("command", "time_s")}
    pairs = [(key, "unknown" if value is None else str(value)) for key, value in shown.items()]
    if provenance.get("time_s") is not None:
        pairs.append(("computing time", _duration(float(provenance["time_s"]))))
    return pairs


def _duration(time_s: float) -> str:
    if time_s < 60:
        return f"{number(time_s)} s"
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
