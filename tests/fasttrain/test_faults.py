"""Every file of a store, spoilt in every way: a command succeeds, or says in one line why not.

Never another error, never a wait for what does not come, and nothing outside is touched.
"""

import functools
import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest

from fasttrain.analysis.records import Analysis, choose, save
from fasttrain.analysis.tables import TABLES
from fasttrain.cli import commands
from fasttrain.execution.journal import Journal
from fasttrain.report.page import html
from fasttrain.report.renew import Report
from fasttrain.settings.data.named import Named
from fasttrain.store.status import PROGRESS
from fasttrain.store.store import Store

from .pages import use_decreed
from .stored import begin, pretraining

GRID = ("--plr", "0.1", "--flr", "1e-2", "--k", "none", "--processes", "1", "--pack", "1")
HANG_S = 600


def deep(depth: int) -> bytes:
    return b'{"files": ' * depth + b"1" + b"}" * depth


def other_file(path: Path, store: Path) -> None:
    """What a file of the same name elsewhere holds, or a file of another kind."""
    same = [p for p in sorted(store.rglob(path.name)) if p.parent != path.parent]
    other = next(p for p in sorted(store.glob("*/done.json")) if p.parent != path.parent)
    shutil.copyfile(same[0] if same else other, path)


def outside(path: Path, store: Path) -> None:
    path.symlink_to(store.parent / "outside" / "file")


FAULTS = {
    "missing": lambda path, store: None,
    "empty": lambda path, store: path.touch(),
    "truncated": lambda path, store: path.write_bytes(b'{"'),
    "garbage": lambda path, store: path.write_bytes(bytes(range(255, -1, -1))),
    "another file": other_file,
    "directory": lambda path, store: path.mkdir(),
    "pipe": lambda path, store: os.mkfifo(path),
    "link": outside,
    "deep JSON": lambda path, store: path.write_bytes(deep(100_000)),
    "less deep JSON": lambda path, store: path.write_bytes(deep(400)),
    "other JSON": lambda path, store: path.write_bytes(b'{"format": 4, "files": [1], "id": {}}'),
    "JSON list": lambda path, store: path.write_bytes(b"[[], NaN]"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A store with everything that one can hold: finished, analysed, under way, failed, shown."""
    from fasttrain.cli.main import run

    from .conftest import TINY

    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.toml").write_text(TINY.replace("= 3", "= 1").replace("= 2", "= 1"))
    with pytest.MonkeyPatch.context() as patch:
        use_decreed(patch)
        patch.chdir(folder)
        assert run(["sweep", "tiny.toml", *GRID, "--store", "store", "--quiet"]) == 0
        store = Store.open(folder / "store", create=False)
        stages = store.stages()
        # As fasttrain analyse would, in less time.
        rows = {name: pd.DataFrame(columns=list(TABLES[name])) for name in ("norms", "histograms")}
        made = Analysis("norms", tuple(stages[:1]), {}, 0, "norms")
        save(made, rows, {"command": "fasttrain analyse store", "date": "2026"}, store)
        choose({"x": {"norms": [made]}}, store)
        failed = begin(store, pretraining())
        store.fail(failed, "no luck")
        state = store.read_tensors(stages[0], "state.safetensors")
        store.checkpoints.save("0" * 16, {failed: state})
        assert run(["report", "store"]) == 0
        with Journal(store.path, "fasttrain sweep", "training") as journal:
            report = (store.path / PROGRESS).read_bytes()
        # As of a driver that was killed.
        (journal.folder / PROGRESS).write_bytes(report)
    return folder


def files(store: Path) -> list[Path]:
    return sorted(path.relative_to(store) for path in store.rglob("*") if path.is_file())


def test_the_store_holds_a_file_of_every_kind(whole):
    names = {path.name for path in files(whole / "store")}
    kinds = {"store.json", "stage.json", "done.json", "failed.txt", "current.json", ".lock"}
    kinds |= {"plan.json", PROGRESS, "state.safetensors", "metrics.parquet", "norms.parquet"}
    assert kinds | {"report.html", "results.csv", ".written.json"} <= names
    folders = {path.parts[0] for path in files(whole / "store")}
    assert {"checkpoints", "packs", "analyses", "report"} <= folders


@pytest.fixture
def quick(monkeypatch):
    """Pages that only draw, and only in `fasttrain report`: what is read stays the same."""
    use_decreed(monkeypatch)

    def section(grid, commands, pictures, share):
        pictures.of(grid, None, "s")
        return {"title": grid.setup}

    monkeypatch.setattr(html, "_section", section)
    monkeypatch.setattr(html, "_render", lambda **content: repr(content))
    monkeypatch.setattr(commands, "report", lambda store, processes: Report(store.path, True))
    monkeypatch.setattr(Named, "load", functools.cache(Named.load))


@pytest.fixture
def no_waiting():
    """What waits for ever fails."""

    def hangs(*_: object) -> None:
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("quick", "no_waiting")
def test_every_file_spoilt(whole, fault, tmp_path, fasttrain):
    shutil.copyfile(whole / "tiny.toml", tmp_path / "tiny.toml")
    spoilt = files(whole / "store")
    if "JSON" in fault:
        # Garbage to the others.
        spoilt = [path for path in spoilt if path.suffix == ".json"]
    for path in spoilt:
        commands = COMMANDS[:3] if path.parts[0] == "report" else COMMANDS
        for command in commands:
            _spoil(whole, path, fault, tmp_path)
            signal.alarm(HANG_S)
            outcome = fasttrain(*command)
            about = f"{fault} {path}, {command[0]}: {outcome}"
            assert outcome.code in (0, 1), about
            assert outcome.err.count("\n") <= 1 and "Traceback" not in outcome.err, about
            said = outcome.err.startswith("fasttrain: ") or "finding: " in outcome.out
            assert said == bool(outcome.code), about
            elsewhere = tmp_path / "outside"
            assert [p.name for p in elsewhere.iterdir()] == ["file"], about
            assert (elsewhere / "file").read_bytes() == b"mine", about


COMMANDS = (
    ("status", "store"),
    ("doctor", "store"),
    ("report", "store"),
    ("sweep", "tiny.toml", *GRID, "--store", "store", "--quiet"),
    ("analyse", "store", "--only", "norms"),
)


def _spoil(whole: Path, path: Path, fault: str, folder: Path) -> None:
    """A new copy of everything, with one file spoilt."""
    for name in ("store", "outside"):
        shutil.rmtree(folder / name, ignore_errors=True)
    # Links: whatever writes a file puts a new one in its place.
    shutil.copytree(whole / "store", folder / "store", copy_function=os.link)
    (folder / "outside").mkdir()
    (folder / "outside" / "file").write_bytes(b"mine")
    (folder / "store" / path).unlink()
    FAULTS[fault](folder / "store" / path, folder / "store")
