"""What fails or is interrupted: only itself, and a resumed sweep ends in the same bits."""

import pytest

import fasttrain as package
from fasttrain.training.run_pack import run_pack

from .conftest import contents


def test_a_failing_stage_leaves_the_others_and_is_tried_again(
    fasttrain, tiny, tmp_path, monkeypatch
):
    def fails_once(stages, workbench, on_epoch):
        if any(stage.kind == "pretrain" and stage.plr == 0.01 for stage in stages):
            raise RuntimeError("out of memory")
        return run_pack(stages, workbench, on_epoch)

    monkeypatch.setattr("fasttrain.execution.engines.tasks.run_pack", fails_once)
    outcome = fasttrain("sweep", tiny)
    assert outcome.code == 1
    assert "pretrain plr 0.01 seed 0: RuntimeError: out of memory" in outcome.err
    assert "Traceback" not in outcome.err
    assert set(package.load(tmp_path / "runs" / "tiny")["plr"]) == {0.1}
    assert "1 failed" in fasttrain("sweep", tiny, "--dry-run").out
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert fasttrain("sweep", tiny).code == 0
    assert len(package.load(tmp_path / "runs" / "tiny")) == 8
    assert not list((tmp_path / "runs").rglob("failed.txt"))


def test_what_a_failed_pack_had_finished_is_not_lost_from_sight(
    fasttrain, tiny, tmp_path, monkeypatch
):
    def dies_after_the_first(stages, workbench, on_epoch):
        run_pack(stages[:1], workbench, on_epoch)
        if len(stages) > 1:
            raise RuntimeError("killed")

    monkeypatch.setattr("fasttrain.execution.engines.tasks.run_pack", dies_after_the_first)
    outcome = fasttrain("sweep", tiny, "--pack", "2")
    assert outcome.code == 0, outcome.err
    assert len(package.load(tmp_path / "runs" / "tiny")) == 8


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_a_pack_that_has_lost_a_model_resumes_in_the_same_bits(
    fasttrain, tiny, tmp_path, killed_at, epoch
):
    """No checkpoint is due before the kill but the one that the parting itself writes."""
    grid = ("sweep", tiny, "--plr", "1e-2,1e-1,1e180", "--k", "3", "--pack", "3")
    grid = (*grid, "--checkpoint-s", "1000")
    assert fasttrain(*grid, "--store", "whole").code == 0
    killed_at(epoch, *grid, "--store", "parts")
    assert fasttrain(*grid, "--store", "parts").code == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("at", [1, 4, 6, 9])
def test_an_interrupted_sweep_says_how_to_resume_and_ends_in_the_same_bits(
    fasttrain, tiny, tmp_path, monkeypatch, at
):
    assert fasttrain("sweep", tiny, "--store", "whole").code == 0
    count = 0

    def interrupt(*_):
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fasttrain.execution.progress.ProgressView.epoch", interrupt)
        outcome = fasttrain("sweep", tiny, "--store", "parts")
    assert outcome.code == 130
    assert f"fasttrain sweep {tiny} --store parts" in outcome.err
    assert fasttrain("sweep", tiny, "--store", "parts").code == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_time_goes_on_after_an_interruption(fasttrain, tiny, tmp_path, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 1.0
            return self.now

    monkeypatch.setattr("fasttrain.training.epochs.time", Clock())
    count = 0

    def interrupt(*_):
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt

    one = ("sweep", tiny, "--plr", "0.1", "--k", "none")
    with monkeypatch.context() as patch:
        patch.setattr("fasttrain.execution.progress.ProgressView.epoch", interrupt)
        assert fasttrain(*one).code == 130
    assert fasttrain(*one).code == 0
    # The clock ticks a second in every epoch: 3 of pre-training, 2 of fine-tuning.
    assert package.load(tmp_path / "runs" / "tiny")["time_s"].tolist() == [3, 2]
