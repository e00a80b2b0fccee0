"""Nodes of several kinds: each is handed packs of its own size and way, and every result is valid.

Without Ray: packs run here one after another, and the slots claim to be of kinds. Whatever packs
came about, a sweep that finds them recorded ends in the same bits: that is what is compared with.
"""

import contextlib
import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import pytest

import fasttrain as ft
from fasttrain.execution import execution
from fasttrain.execution.engines.local import InProcess, Outcome
from fasttrain.execution.measured import Timing
from fasttrain.execution.pack_size import Choice
from fasttrain.store.pack_records import GROUPED, STREAMS, PackRecords, read_record
from fasttrain.store.store import Store

from .conftest import TINY, contents

CHOICES = {
    "large": Choice(6, timings=[Timing(6, 0.006, 0.001, 1)], processes=1),
    "small": Choice(2, timings=[Timing(2, 0.006, 0.001, 1)], processes=1),
}


class OfKinds(InProcess):
    """Slots of kinds on this machine; tasks run in the order in which they were started.

    Args:
        slots: of kinds. What is handed to one is noted in `handed`.
        lost: a kind whose slots are lost when its first task is to run.
        killed: the task at which all ends, counted from 1.
    """

    def __init__(self, workbench, slots, lost=None, killed=0):
        super().__init__(workbench)
        self.all, self.lost, self.killed = slots, lost, killed
        self.tasks, self.handed = [], []

    def slots(self):
        busy = Counter(kind for _, kind in self.tasks)
        return [kind for kind in self.all if not busy[kind]]

    def start(self, task, kind):
        self.tasks.append((task, kind))
        self.handed.append((kind, [stage.id for stage in task.stages]))

    def wait(self, report):
        task, kind = self.tasks.pop(0)
        if kind == self.lost:
            self.all = [other for other in self.all if other != kind]
            self.lost = None
            return Outcome(task, "RuntimeError: no node is left", lost=True)
        self.killed -= 1
        if not self.killed:
            raise KeyboardInterrupt
        self.task = task
        return super().wait(report)


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """Six pre-trainings, and a fine-tuning and an average from each: packs of 6."""
    path = tmp_path_factory.mktemp("study") / "grid.toml"
    rates = "plr = [1e-3, 2e-3, 4e-3, 1e-2, 2e-2, 4e-2]"
    path.write_text(TINY.replace("plr = [1e-2, 1e-1]", rates).replace("k = [2, 3]", "k = [2]"))
    return path


@pytest.fixture(scope="module")
def study(grid):
    return ft.study(grid)


@pytest.fixture
def swept(study, tmp_path, monkeypatch):
    """`swept(slots, …)` -> what was handed to which kind, by a sweep into `store`."""

    def call(slots, choices=CHOICES, study=study, **how):
        def engine(workbench, *_):
            made.append(OfKinds(workbench, slots, **how))
            return contextlib.nullcontext(made[0])

        made = []
        monkeypatch.setattr(execution, "choose", lambda *_: (choices, []))
        monkeypatch.setattr(execution, "open_engine", engine)
        try:
            ft.sweep(study, store=tmp_path / "store", processes=1, quiet=False)
        except KeyboardInterrupt:
            assert how["killed"]
        monkeypatch.undo()
        return made[0].handed

    return call


def oracle(study, store: Path, folder: Path) -> dict[str, bytes]:
    """The results of the local engine in the packs that a store has recorded."""
    shutil.copytree(store / "packs", folder / "oracle" / "packs")
    shutil.copy(store / "store.json", folder / "oracle")
    ft.sweep(study, store=folder / "oracle", processes=1, pack=6)
    return contents(folder / "oracle")


def sizes(handed, kind: str) -> list[int]:
    return [len(ids) for of, ids in handed if of == kind]


def recorded(store: Path) -> list[dict]:
    return [read_record(path) for path in PackRecords(Store(store)).paths()]


@pytest.mark.parametrize("slots", [["large", "small"], ["small", "large"]])
def test_every_kind_gets_packs_of_its_size(study, swept, tmp_path, slots):
    handed = swept(slots)
    assert max(sizes(handed, "small")) == 2
    assert max(sizes(handed, "large")) > 2
    # Nothing is trained twice, and what is left of a divided pack stays together.
    assert sorted(Counter(i for _, ids in handed for i in ids).values()) == [1] * 18
    assert len(recorded(tmp_path / "store")) == len(handed)
    assert contents(tmp_path / "store") == oracle(study, tmp_path / "store", tmp_path)


def test_one_kind_gets_the_packs_of_the_plan(study, swept, tmp_path):
    handed = swept([""], {"": Choice(4)})
    ft.sweep(study, store=tmp_path / "local", processes=1, pack=4)
    assert sizes(handed, "") == [3] * 6
    assert contents(tmp_path / "store") == contents(tmp_path / "local")


@pytest.mark.parametrize("slots", [["small"], ["large"], ["small", "large"]])
@pytest.mark.parametrize("killed", [1, 2, 3])
def test_what_has_started_trains_in_the_same_packs_again(study, swept, tmp_path, killed, slots):
    """Also where only a kind is left for which they are too large."""
    swept(["large", "small"], killed=killed)
    before = {tuple(m["stage"] for m in r["members"]) for r in recorded(tmp_path / "store")}
    handed = swept(slots)
    after = {tuple(m["stage"] for m in r["members"]) for r in recorded(tmp_path / "store")}
    assert before <= after and {tuple(ids) for _, ids in handed} <= after
    assert contents(tmp_path / "store") == oracle(study, tmp_path / "store", tmp_path)
    # No stage has started in two packs.
    assert sorted(Counter(i for ids in after for i in ids).values()) == [1] * 18


def test_packs_of_a_kind_that_is_lost_go_to_another_as_they_are(study, swept, tmp_path, capsys):
    handed = swept(["large", "small"], lost="large")
    (first,) = (ids for kind, ids in handed if kind == "large")
    assert len(first) == 6
    assert ("small", first) in handed
    assert all(len(ids) <= 2 for kind, ids in handed if ids != first)
    assert "its pack of 6 runs again (RuntimeError: no node is left)" in capsys.readouterr().out
    assert contents(tmp_path / "store") == oracle(study, tmp_path / "store", tmp_path)


def test_a_kind_takes_what_is_too_large_for_it_last(grid, swept):
    study = ft.study(grid, seeds=2)
    (begun,) = swept(["large"], study=study, killed=1)
    handed = swept(["small"], study=study)
    # The packs of the other seed came first.
    assert handed.index(("small", begun[1])) >= 3
    assert sizes(handed, "small").count(6) == 1


def test_what_goes_on_from_shorter_ones_is_taken_last_too(grid, swept):
    swept(["large"], study=ft.study(grid, epochs=2, finetune_epochs=1))
    handed = swept(["small"], study=ft.study(grid, epochs=3, finetune_epochs=2, seeds=2))
    # Those of the other seed are new.
    assert sizes(handed, "small")[:3] == [2, 2, 2]
    assert 6 in sizes(handed, "small")


def test_every_kind_trains_its_packs_its_way(swept, tmp_path):
    swept(["large", "small"], {**CHOICES, "small": Choice(2, way=STREAMS)})
    ways = {len(r["members"]): r.get("way", GROUPED) for r in recorded(tmp_path / "store")}
    assert ways.pop(2) == STREAMS and set(ways.values()) == {GROUPED}


@pytest.mark.parametrize(("command", "flags"), [("sweep", []), ("locate", ["--boundaries", "1|2"])])
def test_kinds_say_what_compiled_networks_cost(fasttrain, grid, monkeypatch, command, flags):
    """By what was measured: networks that are not compiled."""
    choices = {kind: dataclasses.replace(c, compiled=True) for kind, c in CHOICES.items()}
    monkeypatch.setattr(execution, "choose", lambda *_: (choices, []))
    done = fasttrain(command, grid, "--dry-run", "--compile", "on", *flags)
    assert done.code == 0, done.err
    assert "large: 1 of them, packs of up to 6, compiled; ms per step" in done.out
    assert "estimate: " in done.out
