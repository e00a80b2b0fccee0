"""What callbacks of a sweep are told: once, in order, under the names of an export."""

import pandas as pd
import pytest

import fasttrain as ft

GRID = {"plr": [1e-2], "flr": [1e-2], "k": [2], "epochs": 2, "finetune_epochs": 1}
SMALL = {"n_train": 150, "n_test": 60, "width": 2}
HOW = {"processes": 1, "pack": 4, "device": "cpu"}


class Told:
    """A callback that keeps what it is told, and raises where it is asked to."""

    def __init__(self, raises: str = "") -> None:
        self.raises = raises
        self.events: list[tuple] = []

    def on_stage_start(self, run):
        self._keep("start", run)

    def on_epoch(self, run, epoch, values):
        self._keep("epoch", run, epoch, dict(values))

    def on_stage_end(self, run, epoch, state, values):
        self._keep("end", run, epoch, state, dict(values))

    def _keep(self, what, run, *rest):
        if what == self.raises:
            raise RuntimeError("no room")
        self.events.append((what, run, *rest))


@pytest.fixture(scope="module")
def study() -> ft.Study:
    return ft.study("digits", **GRID, **SMALL)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_stage_and_epoch_is_told_once_with_the_values_of_the_store(
    study, tmp_path, processes
):
    told = Told()
    results = ft.sweep(
        study, store=tmp_path / "s", callbacks=[told], **{**HOW, "processes": processes}
    )
    stages = results.stages.set_index("stage")
    by_stage = {stage: [e for e in told.events if e[1].stage == stage] for stage in stages.index}
    assert sum(map(len, by_stage.values())) == len(told.events)
    for stage, events in by_stage.items():
        trained = [] if stages.loc[stage, "kind"] == "swa" else ["epoch"] * stages.epochs[stage]
        assert [event[0] for event in events] == ["start", *trained, "end"]
        assert events[-1][2:4] == (stages.epoch[stage], stages.state[stage])
        assert events[-1][4]["final/accuracy/test"] == stages.test_accuracy[stage]
        table = results.epochs[results.epochs["stage"] == stage].set_index("epoch")
        for _, run, epoch, values in events[1:-1]:
            assert values["loss/train"] == pytest.approx(table.train_loss[epoch])
            assert values["elr"] == run.config["lr"] == 1e-2
            tested = not pd.isna(table.test_accuracy[epoch])
            assert ("accuracy/test" in values) == tested


def test_what_is_finished_is_not_told_again(study, tmp_path):
    ft.sweep(study, store=tmp_path / "s", **HOW)
    told = Told()
    ft.sweep(study, store=tmp_path / "s", callbacks=[told], **HOW)
    assert told.events == []


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("what", ["start", "epoch", "end"])
def test_a_callback_that_raises_stops_the_study_with_its_name_and_the_study_goes_on(
    study, tmp_path, what, processes
):
    how = {**HOW, "processes": processes}
    hook = {"start": "on_stage_start", "epoch": "on_epoch", "end": "on_stage_end"}[what]
    with pytest.raises(ft.EnvironmentProblem, match=rf"^Told\.{hook} of .*no room") as caught:
        ft.sweep(study, store=tmp_path / "s", callbacks=[Told(raises=what)], **how)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not list((tmp_path / "s").glob("*/failed.txt"))
    results = ft.sweep(study, store=tmp_path / "s", callbacks=[Told()], **how)
    assert set(results.stages["state"]) <= {"done", "at-chance"} and len(results.stages) == 3


def test_what_is_no_callback_is_refused_before_anything_runs(study, tmp_path):
    with pytest.raises(ft.UsageError, match="lacks on_stage_start; an object with"):
        ft.sweep(study, store=tmp_path / "s", callbacks=[print], **HOW)
    with pytest.raises(ft.UsageError, match="must be a list of callbacks"):
        ft.sweep(study, store=tmp_path / "s", callbacks=print, **HOW)
    assert not (tmp_path / "s").exists()


def test_a_tool_that_is_none_is_one_line(tmp_path):
    with pytest.raises(ft.UsageError, match=r"'tensorbord' is no tool \(did you mean 'tensorboard"):
        ft.log_to("tensorbord", tmp_path)
