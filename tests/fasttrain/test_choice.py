"""Choosing by measurement: what is measured, what follows from it, and what overrides it."""

import json

import pytest
from torch import nn

import fasttrain as package
from fasttrain.execution import compiling
from fasttrain.execution import pack_size as tuning
from fasttrain.execution.measured import Timing
from fasttrain.execution.pack_size import fastest
from fasttrain.settings.networks.modules import ImageClassifier


def timing(size: int, per_model_ms: float, *, compiled: bool = False) -> Timing:
    return Timing(size, size * per_model_ms / 1e3, 0.001, 1_000_000 * size, compiled)


@pytest.fixture
def measured(monkeypatch, tmp_path) -> list[int]:
    """An empty cache, and made-up timings in place of measured ones: the sizes asked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes: list[int] = []
    # The second as if something else had run meanwhile.
    per_model_ms = {1: 4.0, 2: 6.0, 4: 1.0, 8: 0.99, 16: 3.0, 32: 3.0}

    def measure(workbench, size):
        sizes.append(size)
        return timing(size, per_model_ms.get(size, 1.0))

    monkeypatch.setattr(tuning, "measure", measure)
    # As where they are compiled already.
    monkeypatch.setattr(compiling, "loops", lambda _: [])
    return sizes


def test_of_packs_about_as_fast_the_smallest_is_chosen():
    assert fastest([timing(1, 4), timing(4, 1.02), timing(8, 1.0), timing(16, 3)]).size == 4
    assert fastest([timing(4, 1.0), timing(4, 0.5, compiled=True)]).compiled


def test_the_search_ends_when_two_sizes_in_a_row_are_slower_and_is_done_once(
    fasttrain, tiny, tmp_path, measured
):
    grid = ("sweep", tiny, "--plr", "1e-3:1e-1:40", "--flr", "1e-3", "--k", "none", "--dry-run")
    outcome = fasttrain(*grid)
    assert measured == [1, 2, 4, 8, 16, 32]
    assert "packs of up to 4 in this process" in outcome.out
    assert "in packs of 1: 4, 2: 6, 4: 1, 8: 0.99, 16: 3, 32: 3" in outcome.out
    assert fasttrain(*grid).out == outcome.out
    assert measured == [1, 2, 4, 8, 16, 32]
    (kept,) = (tmp_path / "cache" / "fasttrain" / "tuning").iterdir()
    assert [entry["size"] for entry in json.loads(kept.read_text())["timings"]] == measured
    assert fasttrain(*grid, "--batch-size", "32").code == 0
    assert len(measured) == 12
    kept.write_text("{")
    assert fasttrain(*grid).out == outcome.out
    assert len(measured) == 18


def test_a_cache_that_cannot_be_written_only_costs_time(fasttrain, tiny, tmp_path, measured):
    (tmp_path / "cache").write_text("a file where the directory would be")
    for _ in range(2):
        assert fasttrain("sweep", tiny, "--dry-run").code == 0
    assert measured == [1, 2] * 2


def test_packs_that_would_not_fit_are_not_tried(fasttrain, tiny, monkeypatch, measured):
    # What a pack of one adds, and the free memory: two fit, four do not.
    monkeypatch.setattr(tuning, "free_bytes", lambda device: 6_000_000)
    assert fasttrain("sweep", tiny, "--plr", "1e-3:1e-1:40", "--dry-run").code == 0
    assert measured == [1, 2]


def test_a_given_size_is_taken_without_measuring(fasttrain, tiny, measured):
    outcome = fasttrain("sweep", tiny, "--pack", "1", "--quiet")
    assert outcome.code == 0 and measured == []


@pytest.mark.parametrize("option", ["--pack", "--processes"])
def test_no_pack_and_no_process_are_refused(fasttrain, tiny, option):
    outcome = fasttrain("sweep", tiny, option, "0")
    assert outcome.code == 2 and option.strip("-") in outcome.err


def test_compiled_networks_give_the_same_results(fasttrain, tiny, tmp_path, monkeypatch):
    compiled = []

    def compile_quickly(self, **options):
        compiled.append(self.num_models)
        nn.Module.compile(self, backend="eager", dynamic=options["dynamic"])

    monkeypatch.setattr(ImageClassifier, "compile", compile_quickly)
    grid = ("sweep", tiny, "--plr", "1e-4,2e-4", "--flr", "1e-4", "--k", "2")
    grid = (*grid, "--pack", "2")
    assert fasttrain(*grid, "--store", "eager", "--compile", "off").code == 0
    assert not compiled
    outcome = fasttrain(*grid, "--store", "compiled", "--compile", "on")
    assert outcome.code == 0 and "compiled" in outcome.out
    assert 2 in compiled
    eager, ours = (package.load(tmp_path / name) for name in ("eager", "compiled"))
    assert eager["stage"].equals(ours["stage"])
    # Rounding, amplified by four epochs of three steps.
    assert (eager["train_loss"] - ours["train_loss"]).abs().max() < 1e-3
