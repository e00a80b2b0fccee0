"""The suite of the GPU kit: whatever stops it, it goes on where it was, and one failure is one."""

import dataclasses
import json
import math
import os
import subprocess
import time

import pytest
import torch

from bench.gpu import suite as module
from bench.gpu import suite_log
from bench.gpu.machine import SIZES, origin

CPU = torch.device("cpu")
FULL = dataclasses.replace(SIZES["full"], until=math.inf)
FIRST = """
import pytest

def test_passes(): pass

@pytest.mark.parametrize("value", [1, 2])
def test_one_fails(value): assert value == 1, "not\\nso"

@pytest.mark.skip
def test_is_skipped(): pass

@pytest.fixture
def broken(): raise RuntimeError("no fixture")

def test_has_no_fixture(broken): pass
"""
DIES = """
import os

def test_before(): pass
def test_dies(): os._exit(7)
def test_after(): pass
"""
BREAKS = """
import os, pytest

def test_breaks_the_device():
    os.environ["BROKEN"] = "1"
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

def test_after():
    assert "BROKEN" not in os.environ
"""
# Were the name of the mark in this file, it would be one of the suite.
MARKED = """
import pytest

def test_elsewhere(): raise AssertionError

@pytest.mark.{marker}
def test_here(): pass
""".format(marker="gpu")
STOPS = """
import time
from pathlib import Path

HERE = Path(__file__).parent

def test_first():
    with (HERE / "first").open("a") as file:
        file.write("x")

def test_second():
    with (HERE / "second").open("a") as file:
        file.write("x")
    if not (HERE / "enough").exists():
        time.sleep(97531)
"""


# The second test alone has little time, lest a slow machine cut off the first one.
HASTY = """
import bench.gpu.suite_log as log

def note(path, test, *rest, note=log.note):
    log.TEST_S = 1.0 if test.endswith("second") else 600.0
    note(path, test, *rest)

log.note = note
"""


@pytest.fixture
def files(monkeypatch, tmp_path):
    """Makes files of tests the suite."""
    # The plugin's own: this test may run in a process of the kit's suite itself.
    for name in (suite_log.LOG, suite_log.UNTIL, "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    # Of other packages, most of what a process takes to begin.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(module.ROOT), os.environ["PYTHONPATH"]]))

    def made(**sources):
        paths = []
        for name, source in sources.items():
            paths.append(tmp_path / f"{name}.py")
            paths[-1].write_text(source)
        monkeypatch.setattr(module, "files", lambda: paths)

    return made


def by_name(folder) -> dict[str, str]:
    found = suite_log.outcomes(folder / "suite.jsonl")
    return {test.rpartition("::")[2]: how for test, how in found.items() if how != module.DONE}


def test_every_end_is_told(files, tmp_path):
    files(one_cases=FIRST, two_cases=DIES, three_cases=BREAKS, test_four=MARKED)
    found = module.suite(FULL, CPU, tmp_path)
    assert found.pop("failures") and found == {"files": 4, "passed": 6, "skipped": 1, "failed": 4}
    ends = by_name(tmp_path)
    assert ends["test_passes"] == ends["test_one_fails[1]"] == "passed"
    assert ends["test_is_skipped"] == "skipped"
    assert ends["test_has_no_fixture"].endswith("RuntimeError")
    # Those after one that took its process along, or broke its device, run in another process.
    assert ends["test_dies"] == "its process ended with 7, or it took more than 120 s"
    assert ends["test_before"] == ends["test_after"] == "passed"
    assert "test_here" in ends and "test_elsewhere" not in ends


def test_what_has_ended_is_not_run_again(files, tmp_path, monkeypatch):
    files(one_cases=FIRST)
    first = module.suite(FULL, CPU, tmp_path)
    monkeypatch.setattr(module, "_pytest", lambda *_: pytest.fail("a file that is done"))
    assert module.suite(FULL, CPU, tmp_path) == first


def test_without_time_it_says_so_and_goes_on_when_called_again(files, tmp_path):
    files(one_cases=FIRST, stops_cases=STOPS)
    (tmp_path / "enough").touch()
    late = dataclasses.replace(FULL, until=time.monotonic() + module.END_S - 1)
    with pytest.raises(RuntimeError, match="0 tests have run, the same command goes on"):
        module.suite(late, CPU, tmp_path)
    assert module.suite(FULL, CPU, tmp_path)["passed"] == 4


def test_what_was_cut_off_is_tried_once_more(files, tmp_path):
    files(stops_cases=STOPS)
    log = tmp_path / "suite.jsonl"
    (tmp_path / "enough").touch()
    module.suite(FULL, CPU, tmp_path)
    names = {how[0].rpartition("::")[2]: how[0] for how in suite_log.entries(log)}
    assert (tmp_path / "second").read_text() == "x"
    anew(log)
    # As the kit leaves it, which ends all at its limit, half a line included.
    suite_log.note(log, names["test_first"], None)
    suite_log.note(log, names["test_first"], "passed")
    suite_log.note(log, names["test_second"], None)
    log.write_text(log.read_text() + '\n["hal')
    assert module.suite(FULL, CPU, tmp_path)["passed"] == 2
    assert (tmp_path / "first").read_text() == "x" and (tmp_path / "second").read_text() == "xx"
    anew(log)
    for left_s in (3.0, suite_log.TEST_S, 50.0, suite_log.TEST_S):
        assert not suite_log.outcomes(log)
        suite_log.note(log, names["test_second"], None, left_s)
    found = module.suite(FULL, CPU, tmp_path)
    assert found["passed"] == 1 and found["failures"] == [
        f"{names['test_second']}: cut off 2 times"
    ]
    assert (tmp_path / "second").read_text() == "xx"


def anew(log) -> None:
    log.unlink(missing_ok=True)
    suite_log.begin(log, origin(CPU))


def test_tests_of_other_sources_run_again_and_failed_ones_of_the_same_do_not(
    files, tmp_path, monkeypatch
):
    """What is run of a file is noted as its one test."""
    files(one_cases="")
    ran, how = [], ["failed"]

    def pytest_of(path, until, log):
        ran.append(path)
        suite_log.note(log, "test", how[0])
        return subprocess.CompletedProcess([], 0)

    monkeypatch.setattr(module, "_pytest", pytest_of)
    for _ in range(2):
        assert module.suite(FULL, CPU, tmp_path)["failures"] == ["test: failed"]
    assert len(ran) == 1
    monkeypatch.setattr(module, "origin", lambda device: {"sources": "mended"})
    how[0] = "passed"
    assert module.suite(FULL, CPU, tmp_path)["failures"] == [] and len(ran) == 2
    assert json.loads((tmp_path / "suite.jsonl").read_text().splitlines()[0]) == {
        "sources": "mended"
    }


def test_a_test_that_hangs_is_ended(files, tmp_path, monkeypatch):
    files(stops_cases=STOPS)
    (tmp_path / "sitecustomize.py").write_text(HASTY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    found = module.suite(FULL, CPU, tmp_path)
    assert found["passed"] == found["failed"] == 1
    assert by_name(tmp_path)["test_second"].startswith("its process ended with 1, or")


def test_a_file_that_cannot_be_imported_is_one_failure(files, tmp_path):
    files(one_cases="import no_such_module", two_cases=DIES)
    found = module.suite(FULL, CPU, tmp_path)
    assert found["passed"] == 2 and found["failed"] == 2
    assert "one_cases.py: exit code 2:" in found["failures"][0]


def test_a_file_that_hangs_before_its_first_test_is_one_failure(files, tmp_path, monkeypatch):
    files(one_cases="import time\ntime.sleep(97531)", two_cases="def test_passes(): pass")
    own = module._pytest

    def timed(path, *others):
        monkeypatch.setattr(module, "SILENT_S", 0.5 if path.name == "one_cases.py" else 600.0)
        return own(path, *others)

    monkeypatch.setattr(module, "_pytest", timed)
    log = tmp_path / "suite.jsonl"
    anew(log)
    suite_log.note(log, "of a process that is gone", None)
    found = module.suite(FULL, CPU, tmp_path)
    assert found["passed"] == found["failed"] == 1
    assert found["failures"][0].endswith("one_cases.py: it hung for 0.5 s, in no test")


def test_half_a_line_is_no_test(tmp_path):
    log = tmp_path / "suite.jsonl"
    assert suite_log.open_test(log) is None
    suite_log.note(log, "one", None)
    with log.open("a") as file:
        file.write('\n["one", "pas')
    assert suite_log.open_test(log) == "one" and suite_log.outcomes(log) == {}
    suite_log.note(log, "one", "passed")
    assert suite_log.open_test(log) is None and suite_log.outcomes(log) == {"one": "passed"}


def test_all_files_with_tests_for_a_gpu_are_there():
    names = {path.name for path in module.files()}
    assert {"triton_cases.py", "norm_triton_cases.py", "test_resident.py"} <= names
    assert module.WRAPPER not in names and __file__ not in {str(p) for p in module.files()}
