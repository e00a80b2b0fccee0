"""The search for boundaries: to the ratio asked for, for a quarter of the uniform grid's epochs."""

import math

import pytest

from fasttrain.analysis.regimes import cut
from fasttrain.boundaries.findings import Findings
from fasttrain.boundaries.search import Probe, Search, latest

ALL = ("1|2", "2A|2B", "2|3")
EDGES = (2.9e-3, 9.1e-3, 4.3e-2)


def landscape(edges: tuple[float, float, float], epochs: int):
    """What a probe shows where regimes meet at those PLRs; the nearer to 1|2, the longer it takes.

    As near the published boundary: epochs to convergence grow as one over the distance to it.
    """

    def show(probe: Probe) -> str:
        distance = abs(math.log(probe.plr / edges[0]))
        if probe.plr > edges[2]:
            return "3"
        if probe.epochs < min(1.9, 0.15 + 0.02 / max(distance, 1e-9)) * epochs:
            return "undecided"
        if probe.plr < edges[0]:
            return "1"
        return ("2A" if probe.plr < edges[1] else "2B") if probe.tuned else "2"

    return show


def search(**changes) -> Search:
    given = {"first": 1e-4, "last": 1.0, "ratio": 1.15, "boundaries": ALL, "num_seeds": 1}
    given |= {"lengths": (50, 200, 400), "full_epochs": 200, "finetune_epochs": 200, "share": 0.25}
    return Search(**(given | changes))


def follow(task: Search, show) -> tuple[dict[Probe, str], dict[Probe, str]]:
    outcomes: dict[Probe, str] = {}
    purposes: dict[Probe, str] = {}
    while wants := task.next_round(outcomes):
        for probe, purpose in wants:
            assert probe not in outcomes, "a probe is asked for once"
            assert not probe.tuned or outcomes[probe._replace(tuned=False)] == "2"
            outcomes[probe], purposes[probe] = show(probe), purpose
    return outcomes, purposes


@pytest.mark.parametrize("shift", [1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.8])
@pytest.mark.parametrize("boundaries", [ALL, ("1|2", "2|3"), ("2|3",)])
def test_every_boundary_is_found_for_a_quarter_of_the_uniform_grid(shift, boundaries):
    edges = tuple(edge * shift for edge in EDGES)
    task = search(boundaries=boundaries)
    outcomes, purposes = follow(task, landscape(edges, 200))  # type: ignore[arg-type]
    found = Findings(task, outcomes, purposes)
    table = found.boundaries()
    assert tuple(table["boundary"]) == boundaries
    for row in table.to_dict("records"):
        assert row["low"] < edges[ALL.index(row["boundary"])] < row["high"]
        assert row["ratio"] <= 1.15 * (1 + 1e-5)
        assert row["note"] == "" and row["confidence"] == "1 of 1 seeds within 1.15 x"
    # 67 PLRs, each with two fine-tunings where 2A|2B is asked for.
    assert task.uniform_epochs == 67 * 200 * (3 if "2A|2B" in boundaries else 1)
    assert found.spent() == sum(table["epochs"]) + found.epochs("coarse")
    assert found.spent() <= task.uniform_epochs / 4


def test_longer_probes_only_where_a_bracket_needs_them():
    outcomes, _ = follow(search(boundaries=("1|2",)), landscape(EDGES, 200))
    longer = [probe for probe in outcomes if probe.epochs > 50]
    assert longer and all(1 / 5 < probe.plr / EDGES[0] < 5 for probe in longer)
    assert not any(probe.tuned for probe in outcomes)


def test_seeds_are_located_each_by_itself():
    task = search(num_seeds=2)
    shows = [landscape(EDGES, 200), landscape(tuple(2 * e for e in EDGES), 200)]  # type: ignore[arg-type]
    outcomes, purposes = follow(task, lambda probe: shows[probe.seed](probe))
    for seed, factor in enumerate((1, 2)):
        runs = [(plr, outcomes[probe]) for plr, probe in latest(outcomes, seed).items()]
        for name, edge in zip(ALL, EDGES, strict=True):
            bracket = cut(name, runs)
            assert bracket.low < factor * edge < bracket.high <= 1.151 * bracket.low
    row = Findings(task, outcomes, purposes).boundaries().iloc[0]
    assert row["low"] < EDGES[0] and row["high"] > 2 * EDGES[0]
    assert row["confidence"] == "1 of 2 seeds within 1.15 x"


def test_a_bracket_that_stayed_wide_is_no_agreement():
    task = search(boundaries=("1|2",))
    outcomes = {Probe(1e-4, 0, 200): "1", Probe(1.0, 0, 200): "2"}
    row = Findings(task, outcomes, dict.fromkeys(outcomes, "coarse")).boundaries().iloc[0]
    assert row["confidence"] == "0 of 1 seeds within 1.15 x"
    # Every boundary that could do with the same probe is short of epochs.
    blocked = {Probe(1e-3, 0, 50): "1", Probe(2e-2, 0, 50): "undecided", Probe(1.0, 0, 50): "3"}
    assert [search(share=0.001).next_cost(blocked, name) for name in ALL] == [200] * 3


def test_without_2a_the_grid_goes_on_from_the_first_boundary():
    tuned = [Probe(plr, 0, 200, True) for plr in (0.0172, 0.035)]
    outcomes = {Probe(0.015, 0, 200): "1", **dict.fromkeys(tuned, "2B"), Probe(0.04, 0, 200): "3"}
    grid = Findings(search(), outcomes, dict.fromkeys(outcomes, "coarse")).proposal()
    assert grid is not None and grid[1] == 0.04 and grid[0] < 0.01


def test_it_never_spends_more_than_its_share_and_says_when_it_had_to_stop():
    task = search(share=0.03)
    outcomes, purposes = follow(task, landscape(EDGES, 200))
    found = Findings(task, outcomes, purposes)
    assert found.spent() <= 0.03 * task.uniform_epochs
    notes = found.boundaries()["note"]
    left = task.budget - found.spent()
    short = [note for note in notes if note.endswith(" allows: raise --share")]
    assert short and all(f" {left} are left of the {task.budget} that" in note for note in short)
    # It stopped because the next probe costs more than that, and says how much.
    costs = [int(note.split("the next probe takes ")[1].split()[0]) for note in short]
    assert all(cost > left for cost in costs)
    line = found.sentences(["digits"], (1e-3, 5e-3))[0]
    assert f"{found.spent()} epochs" in line and f"--share 0.03 allows {task.budget}" in line


def test_what_ends_a_search_says_what_to_change():
    """Below every boundary nothing is told; nothing lies above; end points are not fitted."""

    def notes(task: Search, show) -> dict[str, str]:
        outcomes, purposes = follow(task, show)
        table = Findings(task, outcomes, purposes).boundaries()
        return dict(zip(table["boundary"], table["note"], strict=True))

    unknown = notes(search(), lambda p: "3" if p.plr > 1e-2 else "undecided")
    assert unknown["1|2"].startswith("it is below PLR 0.0464159; cannot be told at PLR 0.0001, ")
    assert all(
        note.endswith("longest probes have 400 epochs: raise --epochs")
        for note in (unknown["1|2"], unknown["2|3"])
    )
    low = notes(search(), lambda probe: "1")
    assert low["1|2"] == "no run above it: it is above PLR 1; let --plr end above 1"
    high = notes(search(), lambda probe: "3")
    assert high["2|3"] == "no run below it: it is below PLR 0.0001; let --plr begin below 0.0001"
    show = landscape(EDGES, 200)
    unfitted = notes(search(share=1.0), lambda p: "2" if p.tuned else show(p))
    assert unfitted["2A|2B"].endswith("200 epochs is too short: raise --finetune-epochs")


def test_what_stays_undecided_is_named_and_ends_the_search():
    def show(probe: Probe) -> str:
        if 2e-3 < probe.plr < 5e-3:
            return "undecided"
        return landscape(EDGES, 200)(probe._replace(epochs=10**6))

    task = search(boundaries=("1|2",))
    outcomes, purposes = follow(task, show)
    row = Findings(task, outcomes, purposes).boundaries().iloc[0]
    assert row["low"] == pytest.approx(2e-3, rel=0.15) and row["low"] < 2e-3
    assert row["high"] == pytest.approx(5e-3, rel=0.15) and row["high"] > 5e-3
    assert "cannot be told at PLR" in row["note"]


@pytest.mark.parametrize("only", ["1", "3", "undecided"])
def test_boundaries_outside_of_the_range(only):
    task = search()
    outcomes, purposes = follow(task, lambda probe: only)
    table = Findings(task, outcomes, purposes).boundaries()
    assert table["plr"].isna().all() and table["note"].ne("").all()
    assert set(table["confidence"]) == {"0 of 1 seeds"}
    lines = Findings(task, outcomes, purposes).sentences(["digits"], (1e-3, 5e-3))
    assert lines[-1] == "no grid is proposed without the boundary 1|2"


def test_the_order_of_answers_does_not_matter():
    task = search()
    show = landscape(EDGES, 200)
    outcomes, _ = follow(task, show)
    backwards = dict(reversed(outcomes.items()))
    assert task.next_round(backwards) == task.next_round(outcomes) == []
    for size in range(len(outcomes)):
        some = dict(list(outcomes.items())[:size])
        shuffled = dict(sorted(some.items(), reverse=True))
        assert task.next_round(some) == task.next_round(shuffled)


def test_the_proposed_grid_takes_over_the_flags_that_make_the_set_up():
    task = search()
    outcomes, purposes = follow(task, landscape(EDGES, 200))
    found = Findings(task, outcomes, purposes)
    given = ["digits", "--width", "4", "--plr=1e-4:1", "--store", "s", "--dry-run", "--seeds", "2"]
    lines = found.sentences([*given, "--share", "0.2", "--n_train", "99"], (1e-3, 5e-3))
    command = lines[2].split()
    assert command[:3] == ["fasttrain", "sweep", "digits"]
    assert command[3:9] == ["--width", "4", "--seeds", "2", "--n_train", "99"]
    assert command[9] == "--plr" and command[11:] == ["--flr", "0.001,0.005"]
    first, last, count = command[10].split(":")
    table = found.boundaries().set_index("boundary")
    assert float(first) == pytest.approx(table.loc["1|2", "low"], rel=0.01)
    assert float(last) == pytest.approx(table.loc["2A|2B", "high"], rel=0.01)
    assert 5 <= int(count) <= 16
    assert lines[-2:] == [f'  plr = "{command[10]}"', "  flr = [0.001, 0.005]"]
    alone = Findings(search(boundaries=("1|2",)), outcomes, purposes).proposal()
    middle = table.loc["1|2", "plr"]
    assert alone is not None and alone[:2] == pytest.approx((0.5 * middle, 4 * middle))
    near = landscape((EDGES[0], EDGES[1], 2 * EDGES[0]), 200)
    outcomes, purposes = follow(search(boundaries=("1|2", "2|3")), near)
    below = Findings(search(boundaries=("1|2", "2|3")), outcomes, purposes).proposal()
    assert below is not None and 2 * EDGES[0] < below[1] < 2.4 * EDGES[0]
