"""fasttrain locate: probes are stages of a store, found again, and shown with their cost."""

import math

import pandas as pd
import pytest

import fasttrain as package
from fasttrain.analysis.rules import Verdict
from fasttrain.boundaries import locate as module
from fasttrain.boundaries.search import Want
from fasttrain.cli.main import run


def test_too_few_epochs_are_not_those_that_it_is_compared_with(fasttrain, tiny):
    outcome = fasttrain("locate", tiny, *TOY, "--epochs", "4", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert (
        "--epochs 4 is too short: an equilibrium shows after 10 epochs at the earliest."
        in outcome.out
    )
    assert "Probes have 10 or 20, the uniform grid that they are compared with 10" in outcome.out
    # As with --epochs 10.
    assert "at most 196 epochs in all, 50 % of the 392 of a uniform grid of 28" in outcome.out


@pytest.fixture
def toy(monkeypatch):
    """Judge probes by their PLR: 1 below 2e-2, 2 up to 0.3, then 3; 2A below 7e-2."""

    def judged(curves) -> Verdict:
        assert len(curves.loss) and curves.steps_per_epoch == 3
        return Verdict("1" if curves.plr < 2e-2 else "2" if curves.plr < 0.3 else "3", "toy")

    def split(angle, barrier, accuracy) -> Verdict:
        assert 0 < angle < math.pi and math.isnan(barrier) and 0 <= accuracy <= 1
        return Verdict("2A" if angle < 7e-2 else "2B", "toy")

    measure = module.end_points

    def compare(low, high, workbench) -> tuple[float, float]:
        turned, barrier = measure(low, high, workbench)
        assert 0 < turned < math.pi and 0 <= barrier <= 1
        return low.plr, math.nan

    monkeypatch.setattr(module, "judge", judged)
    monkeypatch.setattr(module, "split_equilibrium", split)
    monkeypatch.setattr(module, "end_points", compare)


TOY = ("--plr", "1e-3:1", "--ratio", "1.3", "--epochs", "10", "--flr", "1e-3,1e-2")
TOY += ("--processes", "1", "--pack", "8", "--share", "0.5")


def test_probes_are_stages_of_a_store_and_run_once(fasttrain, tiny, tmp_path, toy):
    first = fasttrain("locate", tiny, *TOY)
    assert first.code == 0, first.err
    store = tmp_path / "runs" / "tiny-locate"
    found = pd.read_csv(store / "report" / "boundaries.csv")
    for edge, row in zip((2e-2, 7e-2, 0.3), found.to_dict("records"), strict=True):
        assert row["low"] < edge <= row["high"] <= 1.3 * 1.0001 * row["low"]
    probes = pd.read_csv(store / "report" / "probes.csv")
    stages = package.load(store)
    pretrained = stages[stages["kind"] == "pretrain"]
    assert sorted(pretrained["plr"]) == sorted(probes.loc[~probes["tuned"], "plr"])
    assert (stages["kind"] == "finetune").sum() == 2 * probes["tuned"].sum() > 0
    paths = [path.parent for path in (store / "analyses").glob("*/pairs.parquet")]
    assert len(paths) == probes["tuned"].sum()
    assert f"barriers along at most {len(paths)} paths" in first.out
    spent = stages["epochs"].sum()
    assert f"{spent} epochs (70 of them the coarse round)" in first.out
    assert spent == found["epochs"].sum() + 70
    finished = {path: path.stat().st_mtime_ns for path in store.rglob("done.json")}
    again = fasttrain("locate", tiny, *TOY)
    assert again.out.splitlines()[-8:] == first.out.splitlines()[-8:]
    assert {path: path.stat().st_mtime_ns for path in store.rglob("done.json")} == finished
    count = len(stages)
    assert fasttrain("status", store).out == f"{store}: finished: {count} of {count} stages.\n"


def test_an_interrupted_search_goes_on_where_it_was(fasttrain, tiny, tmp_path, toy, monkeypatch):
    rounds = module._Run._round
    calls, only = [], ("--boundaries", "2|3")

    def interrupted(self, wants: list[Want], *rest) -> None:
        calls.append(len(wants))
        if len(calls) == 2:
            raise KeyboardInterrupt
        rounds(self, wants, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module._Run, "_round", interrupted)
        stopped = fasttrain("locate", tiny, *TOY, *only)
    assert stopped.code == 130 and "to resume, run again: fasttrain locate" in stopped.err
    store = tmp_path / "runs" / "tiny-locate"
    finished = {path: path.stat().st_mtime_ns for path in store.glob("*/done.json")}
    assert len(finished) == 7
    status = fasttrain("status", store).out
    assert " stages finished, and more to be found." in status
    assert "resume with: fasttrain locate" in status
    assert fasttrain("locate", tiny, *TOY, *only).code == 0
    assert fasttrain("locate", tiny, *TOY, *only, "--store", "direct").code == 0
    for name in ("boundaries.csv", "probes.csv"):
        direct = (tmp_path / "direct" / "report" / name).read_text()
        assert (store / "report" / name).read_text() == direct
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_a_dry_run_says_the_most_it_may_cost_and_writes_nothing(fasttrain, tiny, tmp_path):
    outcome = fasttrain("locate", tiny, *TOY, "--dry-run")
    assert outcome.code == 0, outcome.err
    # 28 PLRs, each 10 epochs and two fine-tunings of 2.
    assert "at most 196 epochs in all, 50 % of the 392 of a uniform grid of 28" in outcome.out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--plr", "1e-2:1e-3"), "--plr 0.01:0.001: a range needs 0 < FIRST < LAST"),
        (("--plr", "1e-2"), "--plr 1e-2: locate takes FIRST:LAST"),
        (("--plr", "1e-2:1e-1:5"), "locate takes FIRST:LAST"),
        (("--plr", "0:1"), "a learning rate is a finite number above 0"),
        (("--plr", "1e-2:1.1e-2"), "already within --ratio 1.15"),
        (("--ratio", "1"), "--ratio 1: must be above 1"),
        (("--ratio", "nan"), "--ratio nan: must be above 1"),
        (("--share", "0"), "--share 0: must be above 0 and at most 1"),
        (("--boundaries", "1|3"), "--boundaries '1|3': allowed are 1|2, 2A|2B, 2|3"),
        (("--flr", "1e-2"), "2A|2B needs the end points of two --flr"),
        (("--flr", "1e-3,1e-2", "--ratio", "3"), "raise --epochs, widen --plr, lower --ratio"),
        (("--seeds", "0"), "grid.seeds = 0"),
    ],
)
def test_what_cannot_be_located_is_one_line(fasttrain, tiny, arguments, words):
    flr = () if "--flr" in arguments else ("--flr", "1e-3,1e-2")
    outcome = fasttrain("locate", tiny, *flr, *arguments)
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert words in outcome.err


def test_a_range_of_one_value_says_so(fasttrain, tmp_path):
    (tmp_path / "one.toml").write_text("[grid]\nplr = [1e-2]\n")
    outcome = fasttrain("locate", tmp_path / "one.toml")
    assert outcome.code == 2 and "--plr 0.01:0.01: a range needs 0 < FIRST < LAST" in outcome.err


def test_digits_show_their_boundaries_for_a_quarter_of_the_grid(fasttrain, tmp_path):
    given = ("--width", "4", "--boundaries", "1|2,2|3", "--ratio", "1.5", "--n-train", "600")
    given += ("--epochs", "40", "--batch-size", "32", "--evaluate-every", "100")
    outcome = fasttrain("locate", "digits", *given, "--store", "s", "--processes", "1")
    assert outcome.code == 0, outcome.err
    found = pd.read_csv(tmp_path / "s" / "report" / "boundaries.csv").set_index("boundary")
    # A decade around where the configured width and images have them.
    assert 5e-3 < found.loc["1|2", "plr"] < 5e-2 and 1e-2 < found.loc["2|3", "plr"] < 1e-1
    assert found.loc["1|2", "plr"] <= found.loc["2|3", "plr"]
    spent = package.load(tmp_path / "s")["epochs"].sum()
    assert spent <= 0.25 * 40 * 19


def test_help_names_its_flags(capsys):
    with pytest.raises(SystemExit) as stop:
        run(["locate", "digits", "--help"])
    assert stop.value.code == 0
    assert "--ratio" in capsys.readouterr().out
