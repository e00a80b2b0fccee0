"""What a command costs on a large store, as counts that no other work on the machine changes."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

import fasttrain
from fasttrain.analysis.setups import all_setups
from fasttrain.api import session
from fasttrain.execution.console import Console
from fasttrain.machine.files import sha256_hex
from fasttrain.plan.config import RunOptions, load_config
from fasttrain.report.renew import renew
from fasttrain.store import json_files
from fasttrain.store.columns import COLUMNS
from fasttrain.store.entries import METRICS, Entries
from fasttrain.store.store import Store

from .pages import use_decreed
from .simulated import simulate, write_study


@pytest.fixture
def grid(tmp_path):
    """A finished grid of 3 x 4 learning rates and 2 seeds: its study, its store, its stages."""
    study = write_study(tmp_path / "grid.toml", 3, 4, 2)
    return study, tmp_path / "store", simulate(study, tmp_path / "store")


@pytest.fixture
def reads(monkeypatch):
    """How often each file is read as JSON."""
    read, counts = json_files.parse_json, Counter[Path]()

    def counted(path, *rest, **options):
        counts[path] += 1
        return read(path, *rest, **options)

    for module in ("json_files", "entries"):
        monkeypatch.setattr(f"fasttrain.store.{module}.parse_json", counted)
    return counts


@pytest.fixture
def curves_read(monkeypatch):
    """How often the curves of each stage are read."""
    read, counts = Entries.content, Counter[str]()

    def counted(self, stage, name, record):
        counts[stage] += name == METRICS
        return read(self, stage, name, record)

    monkeypatch.setattr(Entries, "content", counted)
    return counts


def _sweep(study: Path, store: Path) -> dict[str, str]:
    opened = session.open_session(
        load_config(str(study)), RunOptions(store=store, processes=1, pack=8), name="x", command="c"
    )
    return session.sweep(opened, Console(quiet=True))


def test_a_finished_grid_is_read_once(grid, reads):
    study, store, stages = grid
    assert len(stages) == 2 * (3 + 3 * 4)
    reads.clear()
    assert _sweep(study, store) == {}
    for stage in stages:
        assert reads[store / stage.id / "done.json"] == 1
        assert reads[store / stage.id / "stage.json"] == 1


def test_a_report_reads_every_stage_once_and_none_with_nothing_new(
    grid, reads, curves_read, monkeypatch
):
    use_decreed(monkeypatch)
    _, path, stages = grid
    store = Store.open(path, create=False)
    reads.clear()
    assert renew(store).is_new
    for stage in stages:
        files = path / stage.id / "done.json", path / stage.id / "stage.json"
        assert [reads[file] for file in files] == [1, 1] and curves_read[stage.id] == 1
    reads.clear()
    curves_read.clear()
    assert not renew(store).is_new
    assert not curves_read and not {stage.id for stage in stages} & {p.parent.name for p in reads}


def test_what_figures_draw_are_the_epochs_of_the_store(grid):
    _, path, _ = grid
    [results] = all_setups(path)
    expected = fasttrain.load_epochs(path)[list(results.epochs)]
    found = results.epochs.astype({"stage": "str"})
    pd.testing.assert_frame_equal(found, expected)
    assert {"stage", "plr", "seed", "epoch", *COLUMNS} == set(found)


def test_what_was_built_on_a_replaced_state_runs_again(grid):
    study, store, stages = grid
    opened, child = Store.open(store, create=False), stages[-1]
    entry = opened.entry(child.id)
    assert entry is not None and child.parent is not None
    about, done = entry
    opened.begin(child.id, about)
    files = {name: (store / child.id / name).read_bytes() for name in done["files"]}
    del files["stage.json"]
    replaced = {"built_on": {child.parent.id: sha256_hex(b"another")}}
    opened.finish(child.id, files, {**done, **replaced})
    before = (store / stages[0].id / "done.json").read_bytes()
    session_look = session.Look(opened)
    assert session.reopen_outdated(stages, session_look) == [child]
    assert [s for s in stages if session_look.state(s.id) == "todo"] == [child]
    assert not (store / child.id / "done.json").exists()
    assert (store / stages[0].id / "done.json").read_bytes() == before
