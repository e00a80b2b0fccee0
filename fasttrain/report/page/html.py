"""One page that holds whole grids: works offline, needs no other file, loads nothing.

`write_report` draws the figures of every set-up, writes them as PNG, SVG and CSV, and renders
`report.html.j2` with the pictures, the style (page.css) and the scripts inside.
All text is escaped: names of data sets come from users. Without a script the tables and figures
remain.
"""

import base64
import functools
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from fasttrain.analysis.regimes import boundaries, classify
from fasttrain.analysis.tables import SetupResults
from fasttrain.machine.files import write_atomically
from fasttrain.machine.text import readable
from fasttrain.report.chains import (
    REGIME_HEADING,
    chain_headline,
    chain_summary,
    is_chain,
    starting_regimes,
)
from fasttrain.report.chains import SUMMARY_HEADINGS as CHAIN_HEADINGS
from fasttrain.report.headline import headline, regime_by_plr
from fasttrain.report.page.cell_command import NoCommand, train_command, words_on
from fasttrain.report.page.glossary import PAPERS, TERMS, Links, term_id
from fasttrain.report.page.heatmap import Cells, heatmap, palette, script_data
from fasttrain.report.page.paging import paged
from fasttrain.report.page.pictures import Pictures
from fasttrain.report.page.sample import sample
from fasttrain.report.page.stage_table import stage_table
from fasttrain.report.page.words import differences, flatten, provenance_rows
from fasttrain.report.seed_means import SUMMARY_HEADINGS, number, summary, summary_rows
from fasttrain.store.tables import TABLE_KINDS

_SCRIPTS = ("charts.js", "state.js", "copy.js", "scatter.js", "stages.js", "compare.js", "page.js")
MOST_UNFINISHED = 500
"""that a page lists"""
MOST_SIGNS = 200
"""of how one of them stands"""
MOST_TITLES = 3
"""of set-ups in the title of a page"""
_STATUS_START, _STATUS_END = '<div class="status" role="status">', "</div>"


def write_report(
    folder: str | os.PathLike[str],
    setups: Sequence[SetupResults],
    provenance: Mapping[str, Any],
    **options: Any,
) -> Path:
    """As `write_pages`; returns the path of the first page."""
    return write_pages(folder, setups, provenance, **options)[0]


def write_pages(
    folder: str | os.PathLike[str],
    setups: Sequence[SetupResults],
    provenance: Mapping[str, Any],
    *,
    commands: Mapping[str, str] | None = None,
    analysed_by: Sequence[str] = (),
    unfinished: Sequence[tuple[str, str, str]] = (),
    status: Sequence[str] = (),
    refresh_s: int | None = None,
    processes: int = 1,
) -> list[Path]:
    """Write `folder`/report.html and `folder`/figures/*; returns the paths of the pages.

    More set-ups than a page has room for are on further ones, report-2.html and so on.

    Args:
        setups: one section each, even without a finished stage.
        provenance: what made the results, with `time_s` in seconds and the `command` to repeat it.
        commands: the command that made each stage, by its id, as far as known.
        analysed_by: the commands that made the analyses.
        unfinished: stages that are not finished: what, how many epochs of how many, state.
        status: sentences on where the store stands, for the top of the page.
        refresh_s: how often the page is to reload itself; None: never.
        processes: those that draw at once.

    The page appears whole or not at all. Raises ValueError if a set-up repeats a seed of a cell.
    """
    folder = Path(folder)
    pictures = Pictures(folder / "figures", processes)
    differs = differences([results.configuration for results in setups])
    num_stages = sum(len(results.stages) for results in setups)
    sections = [
        _section(results, commands or {}, pictures, len(results.stages) / max(1, num_stages))
        | {"differs": different}
        for results, different in zip(setups, differs, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    titles = [section["title"] for section in sections]
    content = dict(
        title=" and ".join(dict.fromkeys(titles[:MOST_TITLES])) or "Learning-rate grid",
        css=_inline(_source("page.css"), palette()),
        js=_inline(*map(_source, _SCRIPTS)),
        refresh_s=refresh_s,
        unfinished=[(*row, _cut(state)) for *row, state in unfinished[:MOST_UNFINISHED]],
        num_unfinished=len(unfinished),
        status=status_block(status),
        num_stages=num_stages,
        provenance=provenance_rows(provenance),
        commands=[*filter(None, [provenance.get("command")]), *analysed_by],
    )
    pages = paged(sections, lambda shown: _render(**content, **shown))
    # Further ones first: the first page links to them. Commands and paths may hold bytes of no
    # encoding.
    for name in reversed(pages):
        write_atomically(folder / name, readable(pages[name]).encode())
    pictures.tidy()
    return [folder / name for name in pages]


def status_block(sentences: Sequence[str]) -> Markup:
    """The part of the page that says where the store stands; `with_status` puts a newer one in."""
    lines = Markup("\n").join(Markup("<p>{}</p>").format(sentence) for sentence in sentences)
    return Markup(f"{_STATUS_START}{lines}{_STATUS_END}")


def with_status(page: str, sentences: Sequence[str]) -> str:
    """A page of `write_report` that says where its store stands by now."""
    before, _, rest = page.partition(_STATUS_START)
    _, _, after = rest.partition(_STATUS_END)
    return f"{before}{status_block(sentences)}{after}"


def _render(**content: Any) -> str:
    terms = [(term_id(name), name, words) for name, words in TERMS.items()]
    # A page links a term where it stands first.
    return _template().render(content, terms=terms, papers=PAPERS, linked=Links().of)


@functools.cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.loopcontrols"],
    )
    return environment.from_string(_source("report.html.j2"))


def _cut(text: str) -> str:
    return text if len(text) <= MOST_SIGNS else f"{text[:MOST_SIGNS]}…"


def _source(name: str) -> str:
    return files("fasttrain.report.page").joinpath(name).read_text(encoding="utf-8")


def _inline(*parts: str) -> dict[str, Markup | str]:
    """The text of a style or script, and its hash for the page's security policy."""
    text = "".join(parts)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"text": Markup(text), "hash": f"sha256-{digest}"}


def _section(
    results: SetupResults, commands: Mapping[str, str], pictures: Pictures, share: float
) -> dict[str, Any]:
    """What the template shows of one set-up, in its share of the page; writes its figures."""
    stages = _ordered(results.stages, of_chain=is_chain(results))
    safe = _safe(results.setup)
    empty = {"figures": [], "missing": [], "summary": [], "stages": [], "regimes": []}
    empty |= {"headings": SUMMARY_HEADINGS, "stage_headings": [], "left_out": "", "note_words": ""}
    section = {
        "id": f"setup-{safe}",
        "setup": results.setup,
        "title": _title(results.setup, stages),
        "settings": flatten(results.configuration),
        "map": None,
        **empty,
    }
    regimes = classify(results)
    if is_chain(results):
        return section | _of_chain(results, stages, regimes, pictures, safe, share)
    bounds = boundaries(regimes)
    section["headline"] = headline(results, regimes, bounds)
    if stages.empty:
        return section
    num_test = results.configuration.get("num_test")
    shown = sample(stages, share)
    cells = Cells(stages, regime_by_plr(regimes), num_test, shown)
    recorded = dict.fromkeys(commands[stage] for stage in stages["stage"] if stage in commands)
    try:
        command = train_command(results.configuration, recorded)
        command_words = words_on(command)
    except NoCommand as missing:
        command, command_words = None, str(missing)
    figures, missing = pictures.of(results, regimes, safe)
    return section | {
        "map": heatmap(cells) if cells.plrs else None,
        "data": Markup(script_data(cells, results.epochs, command)),
        "has_command": command is not None,
        "command_words": command_words,
        "figures": figures,
        "missing": missing,
        "summary": summary_rows(summary(stages)),
        "regimes": _regime_rows(regimes[regimes["stage"].isin(shown.stages["stage"])]),
        "left_out": shown.words,
        "note_words": shown.note_words,
        **stage_table(shown.stages, regimes),
    }


def _of_chain(
    results: SetupResults,
    stages: pd.DataFrame,
    regimes: pd.DataFrame,
    pictures: Pictures,
    safe: str,
    share: float,
) -> dict[str, Any]:
    """What a section says of chains of legs."""
    if stages.empty:
        return {"headline": chain_headline(results)}
    figures, missing = pictures.of(results, regimes, safe)
    starts = starting_regimes(results)
    if starts:
        stages = stages.assign(start=stages["stage"].map(starts))
    shown = sample(stages, share)
    return {
        "headline": chain_headline(results),
        "figures": figures,
        "missing": missing,
        "summary": chain_summary(stages, starts),
        "headings": (*CHAIN_HEADINGS, *([REGIME_HEADING] if starts else [])),
        "left_out": shown.words,
        "note_words": shown.note_words,
        **stage_table(shown.stages, regimes, of_chain=True, regime_of_start=bool(starts)),
    }


def _ordered(stages: pd.DataFrame, *, of_chain: bool) -> pd.DataFrame:
    """The stages in the order of the page's table, which the script counts on."""
    if stages.empty:
        return stages
    kinds = {kind: place for place, kind in enumerate(TABLE_KINDS)}
    ordered = stages.assign(order=stages["kind"].map(kinds))
    keys = ["path", "k"] if of_chain else ["plr", "flr", "k"]
    return ordered.sort_values(["order", *keys, "seed"]).reset_index(drop=True)


def _title(setup: str, stages: pd.DataFrame) -> str:
    if stages.empty:
        return f"Set-up {setup}"
    first = stages.iloc[0]
    width = "" if pd.isna(first["width"]) else f" of width {first['width']}"
    return f"{first['model']}{width} on {first['dataset']}"


def _safe(setup: str) -> str:
    """The set-up's name for paths and addresses."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", setup)
    # Two names may become one once their odd characters are gone.
    return safe if safe == setup else f"{safe}-{hashlib.sha256(setup.encode()).hexdigest()[:8]}"


def _regime_rows(regimes: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    ordered = regimes.sort_values(["plr", "seed"]).to_dict("records")
    return [(number(r["plr"]), str(r["seed"]), r["regime"], r["reason"]) for r in ordered]
