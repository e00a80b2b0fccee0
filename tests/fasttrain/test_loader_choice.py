"""The loader of a sweep: said in its output, and of no consequence to its results."""

from fasttrain.training import workbench as module
from fasttrain_data import DataUnavailable

from .conftest import contents


def test_streamed_stages_are_the_resident_ones(fasttrain, tiny, tmp_path, monkeypatch, ffcv):
    monkeypatch.setenv("FASTTRAIN_DATA", str(tmp_path / "cache"))
    flags = ("--flip", "--crop-padding", "1", "--k", "2", "--plr", "1e-2")
    resident = fasttrain("sweep", tiny, *flags, "--store", "resident")
    assert "batches: resident: digits train, " in resident.out
    assert "the set is in memory already" in resident.out
    streamed = fasttrain("sweep", tiny, *flags, "--store", "streamed", "--loader", "ffcv")
    assert streamed.code == 0, streamed.err
    assert "batches: ffcv: " in streamed.out and "as asked for" in streamed.out
    results = contents(tmp_path / "resident")
    assert len(results) > 3
    assert contents(tmp_path / "streamed") == results
    assert list((tmp_path / "cache" / "beton").glob("digits-train-*.beton"))


def test_a_dry_run_says_which_loader(fasttrain, tiny):
    assert "batches: resident: digits train, " in fasttrain("sweep", tiny, "--dry-run").out


def test_a_loader_that_cannot_be_had_is_one_line(fasttrain, tiny, monkeypatch):
    def unavailable(*arguments, **options):
        raise DataUnavailable("FFCV cannot be used; to install it: ...")

    monkeypatch.setattr(module.Workbench, "train_loader", unavailable)
    outcome = fasttrain("sweep", tiny, "--loader", "ffcv")
    assert outcome.code == 1
    assert outcome.err == "fasttrain: FFCV cannot be used; to install it: ...\n"
