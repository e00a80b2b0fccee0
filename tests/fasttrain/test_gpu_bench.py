"""The GPU kit, dry: every part runs on the CPU with sizes that measure nothing, so that no slip of
the pen waits for a card.
"""

import itertools
import json
import subprocess
import sys

import pytest
import torch

from bench.gpu import machine, norm, parts, profile, run, steps, studies, suite

from .programs import ENVIRONMENT


def test_every_part_runs_and_is_not_run_again(in_this_process, tmp_path, capsys):
    given = ["--dry-run", "--out", str(tmp_path)]
    assert run.main(given) == 0
    assert in_this_process == list(parts.PARTS)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["dry run"] and all("found" in part for part in found["parts"].values())
    page = (tmp_path / "gpu.md").read_text()
    assert "no figure means anything" in page
    assert all(f"## {name}\n" in page for name in parts.PARTS)
    rows = [r for n in steps.NETWORKS for r in found["parts"][f"steps of {n}"]["found"]]
    assert not any("error" in row for row in rows)
    assert {row["way"] for row in rows} == {
        "eager",
        "graph, pack of 1",
        "graph, pack of 2",
        "graph, weights cast",
        "2 graphs on streams",
    }
    assert all(row["us"] > 0 and row["predicted launches"] > 50 for row in rows)
    assert found["parts"]["resume"]["found"] == {"tensors that differ": 0, "scores equal": True}
    assert found["parts"]["kept graphs"]["found"]["tensors that differ"] == 0
    assert found["parts"]["one by one"]["found"] == dict.fromkeys([*studies.SETTINGS, "streams"], 0)
    # On the CPU both grids are the same grid.
    assert found["parts"]["grids"]["found"]["largest difference"] == 0
    losses = found["parts"]["losses"]["found"]
    assert [row["way"] for row in losses] == ["ours", "eager"]
    assert all(row["us"] > 0 for row in losses)
    norms = found["parts"]["normalisation"]["found"]
    assert {(r["pass"], r["way"]) for r in norms} == set(
        itertools.product(norm.PASSES, ("ours", "eager"))
    )
    assert all(row["us"] > 0 and row["of the copy"] > 0 for row in norms)
    tables = found["parts"]["step by kernel"]["found"]
    assert tables.keys() == steps.NETWORKS.keys()
    for *kinds, whole in tables.values():
        # What a profiler saw is divided among the kinds; convolutions are called so anywhere.
        assert sum(r["measured us"] for r in kinds) == pytest.approx(whole["measured us"])
        assert kinds[0]["kernel"] == "convolutions" and kinds[0]["measured us"] > 0
    assert found["parts"]["suite"]["found"] == {"files": 1, "failures": []}
    in_this_process.clear()
    assert run.main(given) == 0 and not in_this_process
    assert "not begun" not in capsys.readouterr().out


def test_a_part_that_fails_is_named_and_tried_again(in_this_process, tmp_path, monkeypatch, capsys):
    given = ["--dry-run", "--out", str(tmp_path), "--parts", "environment,augmentation"]
    own = run.ended

    def fails(command, environment, log, limit_s):
        if "augmentation" not in command:
            return own(command, environment, log, limit_s)
        log.write_text("Traceback\nRuntimeError: an illegal access")
        return 1

    monkeypatch.setattr(run, "ended", fails)
    assert run.main(given) == 1
    assert "augmentation: exit code 1: RuntimeError: an illegal access" in capsys.readouterr().out
    assert "failed: exit code 1" in (tmp_path / "gpu.md").read_text()
    monkeypatch.setattr(run, "ended", own)
    in_this_process.clear()
    assert run.main(given) == 0
    assert in_this_process == ["augmentation"]


def test_without_ceilings_nothing_that_needs_them_begins(
    in_this_process, tmp_path, monkeypatch, capsys
):
    given = ["--dry-run", "--out", str(tmp_path), "--parts", "normalisation,losses"]

    def fails(size, device):
        raise KeyboardInterrupt

    own = run.ended

    def ended(*arguments):
        try:
            return own(*arguments)
        except KeyboardInterrupt:
            return None

    with monkeypatch.context() as patch:
        patch.setattr(machine, "ceilings", fails)
        patch.setattr(run, "ended", ended)
        assert run.main(given) == 1
    assert in_this_process == ["ceilings", "losses"]
    said = capsys.readouterr().out
    assert "normalisation: not begun, the ceilings were not measured" in said
    in_this_process.clear()
    assert run.main(given) == 0 and in_this_process == ["ceilings", "normalisation"]


def test_nothing_begins_after_the_budget(in_this_process, tmp_path, capsys):
    assert run.main(["--dry-run", "--out", str(tmp_path), "--budget-s", "0"]) == 1
    assert not in_this_process
    assert "environment: not begun, the budget of 0 s is spent" in capsys.readouterr().out


def test_the_limits_of_all_parts_fill_the_budget():
    names, budget = list(parts.PARTS), run.arguments([]).budget_s
    assert parts.LIMITS.keys() == parts.PARTS.keys()
    assert sum(parts.LIMITS.values()) == budget == 540
    ends = run.deadlines(names, {}, budget)
    assert list(ends) == names and ends[names[0]] == parts.LIMITS[names[0]]
    assert max(ends.values()) == ends[names[-1]] == budget
    # A smaller budget drops the last ones, a larger one is for all.
    assert run.deadlines(names, {}, 30.0)[names[1]] == run.deadlines(names, {}, 30.0)["suite"] == 30
    assert run.deadlines(names, {}, 1080.0) == {name: 2 * end for name, end in ends.items()}
    # What is there already leaves the others more.
    found = {name: {"found": 1} for name in names[:-2]} | {names[-2]: {"error": "?"}}
    assert run.deadlines(names, found, budget) == {"convolutions": 60, "suite": 540}
    assert run.deadlines(names, dict.fromkeys(names, {"found": 1}), budget) == {}


def test_what_is_of_other_sources_is_measured_anew(in_this_process, tmp_path, monkeypatch, capsys):
    given = ["--dry-run", "--out", str(tmp_path), "--parts", "environment"]
    assert run.main(given) == run.main(given) == 0
    assert in_this_process == ["environment"] and "anew" not in capsys.readouterr().out
    monkeypatch.setattr(machine, "digest", lambda root: "mended")
    assert run.main(given) == run.main(given) == 0
    assert in_this_process == ["environment"] * 2
    said = capsys.readouterr().out
    assert said.count(f"{tmp_path / 'gpu.json'} is of another source: all is measured anew") == 1


def test_the_digest_is_of_names_and_contents_of_sources(tmp_path):
    seen = [machine.digest(tmp_path)]
    (tmp_path / "kernels").mkdir()
    for name, content in (("kernels/a.py", "1"), ("kernels/a.py", "2"), ("kernels/b.py", "2")):
        (tmp_path / name).write_text(content)
        seen.append(machine.digest(tmp_path))
    assert len(set(seen)) == 4
    (tmp_path / "a.py").touch()
    (tmp_path / "kernels/a.pyc").touch()
    assert machine.digest(tmp_path) == seen[-1]


def test_a_failed_test_of_the_suite_is_a_result_and_a_failure_of_the_command(
    in_this_process, tmp_path, monkeypatch, capsys
):
    given = ["--dry-run", "--out", str(tmp_path), "--parts", "suite"]
    found = {"files": 1, "failed": 1, "failures": ["test: why"]}
    monkeypatch.setattr(suite, "suite", lambda size, device, folder: found)
    assert run.main(given) == run.main(given) == 1
    assert in_this_process == ["suite"]
    assert capsys.readouterr().out.count("suite: 1 failed; what failed runs again") == 2


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for program in (run.main, profile.main):
        assert program(["--out", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert "this machine has 0 CUDA devices; --dry-run runs" in error and "\n" not in error[:-1]
    assert run.main(["--dry-run", "--out", str(tmp_path), "--parts", "stream"]) == 2
    assert "--parts 'stream': allowed are environment, ceilings" in capsys.readouterr().err


@pytest.mark.parametrize("eager", [False, True])
def test_a_step_is_profiled_into_files(tmp_path, capsys, eager):
    given = ["--dry-run", "--out", str(tmp_path), "--network", "digits", "--models", "2"]
    assert profile.main([*given, *(["--eager"] if eager else [])]) == 0
    assert "convolution" in (tmp_path / "step.txt").read_text()
    assert json.loads((tmp_path / "step.json").read_text())["traceEvents"]
    assert "step.txt" in capsys.readouterr().out


WITHOUT = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tyro", "ffcv", "geoopt"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
sys.argv = ["python -m bench", "gpu", "--parts", "no such part"]
import bench.gpu.profile
import runpy
runpy.run_module("bench", run_name="__main__")
"""


def test_it_needs_no_package_that_only_the_command_line_has():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "--parts 'no such part': allowed are" in done.stderr
