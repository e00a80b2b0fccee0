"""Analyses in worker processes: the same tables as in one, and deaths that stay in their pack."""

import os
import shutil
import signal

import pytest

import fasttrain
from fasttrain.analysis import analyse
from fasttrain.analysis import kinds as works
from fasttrain.analysis.progress import AnalysisView
from fasttrain.cli.main import run
from fasttrain.execution import journal
from fasttrain.execution.measured import Timing
from fasttrain.store.status import read

from .conftest import TINY
from .programs import workers


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    (folder / "grid.toml").write_text(TINY)
    store = folder / "store"
    arguments = ["--store", str(store), "--processes", "1", "--pack", "2", "--quiet"]
    assert run(["sweep", str(folder / "grid.toml"), *arguments]) == 0
    return store


@pytest.fixture
def fresh(swept, tmp_path):
    """A store that nothing was analysed of."""
    return shutil.copytree(swept, tmp_path / "store")


@pytest.fixture(scope="module", autouse=True)
def packs_of_one():
    """The packs of one process and of two are the same."""
    timing = Timing(1, step_s=1.0, test_batch_s=0.1, memory_bytes=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analyse, "measure_packs", lambda *_: [timing])
        yield


@pytest.fixture(scope="module")
def expected(swept, tmp_path_factory):
    """The rows of every table, by analysis, from one process."""
    store = shutil.copytree(swept, tmp_path_factory.mktemp("one_process") / "store")
    assert run(["analyse", str(store), "--processes", "1"]) == 0
    return rows(store)


def rows(store):
    """Every file of the analyses that numbers are read from."""
    paths = sorted((store / "analyses").glob("*/*.parquet"))
    return {str(path.relative_to(store)): path.read_bytes() for path in paths}


def test_two_processes_give_the_bits_of_one(fresh, expected, capsys):
    assert run(["analyse", str(fresh), "--processes", "2"]) == 0
    assert "in 2 processes, 1 threads each" in capsys.readouterr().out
    assert rows(fresh) == expected
    assert len(expected) > 20


def test_from_python_too(fresh, expected):
    fasttrain.analyse(fresh, only=["norms"], processes=2)
    found = rows(fresh)
    assert found == {name: expected[name] for name in found} and len(found) == 2 * 4
    with pytest.raises(fasttrain.UsageError, match="analyse: processes = 0: must be"):
        fasttrain.analyse(fresh, processes=0)


def test_what_a_killed_worker_was_at_is_made_by_another(fresh, expected, capsys, monkeypatch):
    begin, begun = AnalysisView.begin, []

    def kill_at_the_third(view, pack):
        begun.append(pack)
        if len(begun) == 3:
            left = workers(os.getpid())
            assert len(left) == 2
            for worker in left:
                os.kill(worker, signal.SIGKILL)
        begin(view, pack)

    monkeypatch.setattr(AnalysisView, "begin", kill_at_the_third)
    assert run(["analyse", str(fresh), "--processes", "2"]) == 0
    out = capsys.readouterr().out
    assert "runs again (RuntimeError: the worker process was ended by signal SIGKILL)" in out
    assert rows(fresh) == expected


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_stage_that_is_gone_leaves_the_others(fresh, expected, capsys, processes):
    stages = fasttrain.load(fresh)
    parent = stages[(stages["kind"] == "pretrain") & (stages["plr"] == 0.01)]["stage"].item()
    shutil.rmtree(fresh / parent)
    assert run(["analyse", str(fresh), "--only", "norms", "--processes", processes]) == 1
    err = capsys.readouterr().err
    # The norms of a fine-tuning begin with its parent's.
    assert err.startswith("fasttrain: 1 analyses failed") and err.count("\n") == 1
    assert "norms low plr 0.01 seed 0" in err and f"{parent}" in err
    found = rows(fresh)
    assert found == {name: expected[name] for name in found} and len(found) == 2 * 2
    assert len(list((fresh / "analyses").glob("*/failed.txt"))) == 1


def test_an_interrupted_analysis_goes_on_where_it_stood(fresh, expected, capsys, monkeypatch):
    end, ended = AnalysisView.end, []

    def interrupt_at_the_fifth(view, node, state):
        ended.append(node)
        if len(ended) == 5:
            raise KeyboardInterrupt
        end(view, node, state)

    with monkeypatch.context() as patch:
        patch.setattr(AnalysisView, "end", interrupt_at_the_fifth)
        assert run(["analyse", str(fresh), "--processes", "2"]) == 130
    assert "to resume, run again: fasttrain analyse" in capsys.readouterr().err
    assert not workers(os.getpid())
    made = len(list((fresh / "analyses").glob("*/done.json")))
    assert made >= 5
    assert run(["analyse", str(fresh), "--processes", "2"]) == 0
    assert f" {made} done before" in capsys.readouterr().out
    assert rows(fresh) == expected


def test_a_pack_that_fails_once_is_made_again_as_a_whole(fresh, capsys, monkeypatch):
    timing = Timing(4, step_s=1.0, test_batch_s=0.1, memory_bytes=1)
    monkeypatch.setattr(analyse, "measure_packs", lambda *_: [timing])
    work, tried = works.ANALYSERS["features"], []

    def fails_once(analyses, workbench, size):
        tried.append([analysis.id for analysis in analyses])
        if len(tried) == 1:
            raise RuntimeError("no good")
        return work(analyses, workbench, size)

    monkeypatch.setitem(works.ANALYSERS, "features", fails_once)
    assert run(["analyse", str(fresh), "--only", "features", "--processes", "1"]) == 0
    assert "its pack of 4 runs again (RuntimeError: no good)" in capsys.readouterr().out
    assert len(tried[0]) == 4 and tried[1] == tried[0]


def test_status_says_how_far_an_analysis_is(fresh, monkeypatch):
    report, seen = journal.Journal.report, []

    def look(self, view, at_once=False):
        report(self, view, True)
        seen.append(" ".join(read(fresh).sentences()))

    monkeypatch.setattr(journal.Journal, "report", look)
    assert run(["analyse", str(fresh), "--only", "norms", "--processes", "1"]) == 0
    assert "analysing finished stages, 0 of 4 done." in seen[0]
    assert "1 of 1 processes at work: norms pretrain plr 0.01 seed 0." in seen[0]
    assert "analysing finished stages, 4 of 4 done." in seen[-1]
