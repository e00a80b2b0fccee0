"""Phases of a command: each second is counted once, and told where it is asked for."""

import pytest

from fasttrain.execution import compiling
from fasttrain.machine import timings


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(timings.time, "monotonic", lambda: now[0])
    return now


def test_a_phase_in_another_counts_once(clock):
    with timings.collected() as seconds:
        clock[0] += 1
        with timings.phase("outer"):
            clock[0] += 2
            for _ in range(2):
                with timings.phase("inner"):
                    clock[0] += 4
            clock[0] += 8
        clock[0] += 16
    assert seconds == {timings.REST: 17, "outer": 10, "inner": 8}
    words = timings.sentence({**seconds, "short": 0.01})
    assert words.endswith("outer 10.0 s, inner 8.0 s; together 35.0 s") and "short" not in words


def test_a_phase_that_ends_by_an_error_is_counted(clock):
    @timings.phase("work")
    def work() -> None:
        clock[0] += 3
        raise ValueError

    with timings.collected() as seconds:
        for _ in range(2):
            with pytest.raises(ValueError):
                work()
    assert seconds["work"] == 6


def test_a_command_tells_its_phases_and_is_recorded_without_the_flag(fasttrain, tiny, monkeypatch):
    monkeypatch.setattr(timings, "sentence", lambda seconds: f"phases: {', '.join(seconds)}")
    # As where they are compiled already.
    monkeypatch.setattr(compiling, "loops", lambda _: [])
    plain = ("sweep", tiny, "--store", "grid", "--quiet", "--plr", "1e-2")
    outcome = fasttrain(*plain, "--timings")
    phases = ("data, device and plan", "choosing packs", "training", "report", "figures")
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1] == f"phases: {', '.join([timings.REST, *phases])}"
    plan = (tiny.parent / "grid" / "plan.json").read_text()
    assert "--plr 1e-2" in plan and "--timings" not in plan
    assert "phases" not in fasttrain(*plain).err
    # Of a mistake it is told too, after the mistake.
    mistake = fasttrain("reprot", "--timings")
    assert mistake.code == 2 and "did you mean 'report'" in mistake.err.splitlines()[0]
