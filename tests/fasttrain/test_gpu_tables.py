"""Tables of the GPU kit: whatever stops one, it goes on where it was, and one bad row is one."""

import dataclasses
import json
import math

import pytest
import torch

from bench.gpu import kernels, machine, parts, run, steps, table


def test_ways_that_time_does_not_suffice_for_are_not_begun(tmp_path):
    late = dataclasses.replace(machine.SIZES["tiny"], until=-math.inf)
    cpu = torch.device("cpu")
    rows = steps.training_steps("digits", late, cpu, tmp_path, {})
    rows = table.measured(rows, late, cpu, tmp_path / "rows.json")
    assert {row["error"] for row in rows} == {"not begun with -inf s left"} and len(rows) > 3


def test_rows_that_are_missing_are_those_of_the_next_call(tmp_path, monkeypatch, in_this_process):
    """Of a part that was stopped, and of one in which the device went."""
    given = ["--dry-run", "--out", str(tmp_path), "--parts", "steps of digits"]
    answer, made, one = [False], [], steps._ways

    def ways(name, workbench, size):
        def broken():
            made.append("broken")
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        first, *others = one(name, workbench, size)
        noted = [(w, n, lambda w=w, m=m: made.append(w) or m()) for w, n, m in others]
        return [(first[0], first[1], broken), *noted]

    monkeypatch.setattr(steps, "_ways", ways)
    monkeypatch.setattr(table, "answers", lambda device: answer[0])
    assert run.main(given) == 1
    part = json.loads((tmp_path / "gpu.json").read_text())["parts"]["steps of digits"]
    assert part["error"] == "4 rows not measured, the same command goes on with them"
    assert part["found"][0]["error"].startswith("CUDA error") and made == ["broken"]
    assert "the device answers no more" in (tmp_path / "gpu.md").read_text()
    # Killed in the middle of the second row: what is there stays there.
    answer[0], own, row = True, steps._measured, []

    def killed(*arguments):
        if row:
            raise KeyboardInterrupt
        row.append(own(*arguments))
        return row[0]

    def ended(command, environment, log, limit_s):
        try:
            return run.main(command[3:])
        except KeyboardInterrupt:
            return None

    with monkeypatch.context() as patch:
        patch.setattr(run, "ended", ended)
        patch.setattr(steps, "_measured", killed)
        assert run.main(given) == 1
        # And again before it has come to anything, which too little time does not count for.
        assert run.main([*given, "--budget-s", str(table.ROW_S - 1)]) == 1
    part = json.loads((tmp_path / "gpu.json").read_text())["parts"]["steps of digits"]
    assert part["error"].startswith("not ended within") and part["found"][1]["us"] == row[0]["us"]
    # The row that failed is a result, and a failure of the command.
    assert run.main(given) == run.main(given) == 1
    ours = [name for name in made if name != "broken"]
    assert len(ours) == len(set(ours)) == 4 and made.count("broken") == 1
    rows = json.loads((tmp_path / "gpu.json").read_text())["parts"]["steps of digits"]["found"]
    assert [("us" in r, "error" in r) for r in rows] == [(False, True), *[(True, False)] * 4]


def test_a_row_that_ends_its_process_is_begun_twice_and_those_behind_it_are_measured(
    tmp_path, monkeypatch, in_this_process
):
    given = ["--dry-run", "--out", str(tmp_path), "--parts", "steps of digits"]
    one, begun = steps._ways, []

    def ways(name, workbench, size):
        def dies():
            begun.append(1)
            raise KeyboardInterrupt

        first, second, *others = one(name, workbench, size)
        return [first, (*second[:2], dies), *others]

    def ended(command, environment, log, limit_s):
        try:
            return run.main(command[3:])
        except KeyboardInterrupt:
            log.write_text("Segmentation fault")
            return -11

    monkeypatch.setattr(steps, "_ways", ways)
    monkeypatch.setattr(run, "ended", ended)
    assert [run.main(given) for _ in range(3)] == [1, 1, 1] and len(begun) == 2
    rows = json.loads((tmp_path / "gpu.json").read_text())["parts"]["steps of digits"]["found"]
    assert rows[1]["error"] == "ended its process or took all its time, 2 times"
    assert "us" not in rows[1] and all("us" in row for row in (rows[0], *rows[2:]))


def test_rows_outlive_the_command_and_one_that_stops_it_is_begun_twice(
    tmp_path, monkeypatch, in_this_process
):
    """As Ctrl-C stops the command, or the machine that hangs; with them go the part's processes."""
    given = ["--dry-run", "--out", str(tmp_path), "--parts", "steps of digits"]
    own, begun, second = table._measure, [], []

    def second_stops_all(row):
        begun.append(row.about)
        if len(begun) == 2 or row.about in second:
            second.append(row.about)
            raise KeyboardInterrupt
        return own(row)

    monkeypatch.setattr(table, "_measure", second_stops_all)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run.main(given)
    # Nothing is begun, and what there is is there.
    assert run.main([*given, "--budget-s", "0"]) == 1
    part = json.loads((tmp_path / "gpu.json").read_text())["parts"]["steps of digits"]
    assert part["error"] == "stopped with the command" and part["found"][0]["us"] > 0
    assert "failed: stopped with the command" in (tmp_path / "gpu.md").read_text()
    assert run.main(given) == 1
    rows = json.loads((tmp_path / "gpu.json").read_text())["parts"]["steps of digits"]["found"]
    assert rows[0] == part["found"][0] and len(second) == 2
    assert rows[1]["error"] == "ended its process or took all its time, 2 times"
    assert all("us" in row for row in rows[2:]) and len(begun) == len(rows) + 1
    assert not list(tmp_path.glob("*.part.json"))


@pytest.fixture
def begun(monkeypatch):
    """The rows that are begun, of which the second one stops its process."""
    own, rows = table._measure, []

    def measure(row):
        rows.append(row.about)
        if len(rows) == 2:
            raise KeyboardInterrupt
        return own(row)

    monkeypatch.setattr(table, "_measure", measure)
    return rows


@pytest.mark.parametrize("gone", [True, False])
def test_rows_that_a_command_of_other_sources_left_are_measured_anew(
    tmp_path, monkeypatch, in_this_process, begun, gone
):
    """Or one of which nobody knows what its sources were."""
    given = ["--dry-run", "--out", str(tmp_path), "--parts", "losses"]
    with pytest.raises(KeyboardInterrupt):
        run.main(given)
    if gone:
        (tmp_path / "gpu.json").unlink()
    else:
        monkeypatch.setattr(machine, "digest", lambda root: "mended")
    assert run.main(given) == 0
    assert begun == [*begun[:2], *begun[:2]]


@pytest.mark.parametrize("name", [n for n in parts.TABLES if not n.startswith("steps of")])
def test_every_table_goes_on_row_by_row(name, tmp_path, monkeypatch, in_this_process, begun):
    given = ["--dry-run", "--out", str(tmp_path), "--parts", name]

    def ended(command, environment, log, limit_s):
        try:
            return run.main(command[3:])
        except KeyboardInterrupt:
            return None

    monkeypatch.setattr(run, "ended", ended)
    assert run.main(given) == 1
    part = json.loads((tmp_path / "gpu.json").read_text())["parts"][name]
    assert [machine.is_open(row) for row in part["found"]] == [False] + [True] * len(
        part["found"][1:]
    )
    assert run.main(given) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["parts"][name]["found"]
    assert begun == [begun[0], begun[1], *begun[1:2], *begun[3:]] and len(begun) == len(rows) + 1
    assert rows[0] == part["found"][0] and all(row["us"] > 0 for row in rows)


def test_a_wrong_result_is_a_failure_and_the_other_rows_are_measured(
    in_this_process, tmp_path, monkeypatch, capsys
):
    def wrong(logits, labels, sums):
        return (torch.zeros_like(logits),)

    monkeypatch.setattr(kernels, "_loss_in_torch", wrong)
    given = ["--dry-run", "--out", str(tmp_path), "--parts", "losses"]
    assert run.main(given) == run.main(given) == 1
    assert in_this_process == ["losses"]
    assert capsys.readouterr().out.count("losses: 1 failed; what failed runs again") == 2
    ours, eager = json.loads((tmp_path / "gpu.json").read_text())["parts"]["losses"]["found"]
    assert ours["us"] > 0 and eager["error"].startswith("AssertionError: Tensor-likes are not")


def test_steps_are_measured_though_the_one_they_are_compared_with_fails(
    in_this_process, tmp_path, monkeypatch, capsys
):
    own, tried = kernels.variants, []

    def out_of_memory(problem):
        tried.append(problem)
        raise torch.OutOfMemoryError("CUDA out of memory")

    def variants(compiled):
        (label, first), *others = own(compiled).items()
        return {label: dataclasses.replace(first, make=out_of_memory), **dict(others)}

    monkeypatch.setattr(kernels, "variants", variants)
    given = ["--dry-run", "--out", str(tmp_path), "--parts", "optimizer steps"]
    assert run.main(given) == 1
    assert "optimizer steps: 1 failed; what failed runs again" in capsys.readouterr().out
    first, *others = json.loads((tmp_path / "gpu.json").read_text())["parts"]["optimizer steps"][
        "found"
    ]
    why = "OutOfMemoryError: CUDA out of memory"
    # For its own row, and once for all that are compared with it.
    assert first["error"] == why and len(tried) == 2
    joint = {label for label, way in own(False).items() if way.joint}
    for row in others:
        assert row["us"] > 0
        said = f"{first['step']}: {why}" if row["step"] in joint else None
        assert row.get("nothing to compare with") == said
