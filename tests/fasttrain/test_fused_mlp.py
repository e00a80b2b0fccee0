"""Packs of MLPs with layer norm run in the fused kernel: where it fits, and with what results."""

import dataclasses
import json

import pytest
import torch

import fasttrain as package
from fasttrain.plan.config import Config, RunOptions, check
from fasttrain.settings.knobs import Knobs
from fasttrain.training.fused_mlp import FusedMLP, explain
from fasttrain.training.pack import Pack
from fasttrain.training.step_epochs import StepEpochs
from fasttrain.training.workbench import Workbench, open_workbench

from .conftest import contents

CPU = torch.device("cpu")
TICK = {
    "data": {"kind": "tick"},
    "network": {"kind": "mlp", "norm": "layer", "width": 32},
    "training": {
        "steps": 50, "epochs": 3, "finetune_epochs": 2, "batch_size": 24, "precision": "fp32",
        "loss": "binary-cross-entropy",
    },
    "grid": {"plr": [1e-3, 1e-2], "flr": [1e-3], "k": [2]},
}  # fmt: skip
TOML = """
[data]
kind = "tick"
[network]
kind = "mlp"
norm = "layer"
width = 8
radius = 1.0
[training]
steps = 50
epochs = 4
finetune_epochs = 2
batch_size = 24
precision = "fp32"
loss = "binary-cross-entropy"
[grid]
plr = [1e-3, 1e-2, 1e-1]
flr = [1e-3]
k = [2]
"""


def workbench_of(folder, precision: str = "fp32", **changes) -> Workbench:
    table = {name: part | changes.get(name, {}) for name, part in TICK.items()}
    table |= {name: part for name, part in changes.items() if name not in TICK}
    config: Config = check(table, "test")
    return open_workbench(config, RunOptions(), folder / "store", CPU, precision, {})


def pack_of(workbench: Workbench, *rates: float) -> Pack:
    return Pack(workbench, 0, [Knobs(lr=rate) for rate in rates], None)


def test_the_kernel_runs_where_it_fits(tmp_path):
    workbench = workbench_of(tmp_path)
    assert workbench.kernel == "numba"
    assert isinstance(pack_of(workbench, 1e-3).fused, FusedMLP)
    assert explain(workbench) == ["steps: one fused kernel for all of an epoch (numba)"]


@pytest.mark.parametrize(
    ("precision", "changes", "reason"),
    [
        ("bf16", {}, "the precision is bf16, not fp32"),
        ("fp32", {"optimizer": {"kind": "sphere", "scope": "filter"}}, "not one on the joint"),
        ("fp32", {"optimizer": {"kind": "sgd"}}, "not one on the joint sphere"),
        ("fp32", {"training": {"loss": "cross-entropy"}}, "the loss is cross-entropy"),
        ("fp32", {"network": {"width": 129}}, "width = 129, more than 128"),
        ("fp32", {"network": {"layers": 9}}, "layers = 9, more than 8"),
        ("fp32", {"training": {"batch_size": 129}}, "batch = 129, more than 128"),
    ],
)
def test_it_is_said_why_it_does_not(tmp_path, precision, changes, reason):
    workbench = workbench_of(tmp_path, precision, **changes)
    assert workbench.kernel is None
    assert pack_of(workbench, 1e-3).fused is None
    [line] = explain(workbench)
    assert line.startswith("steps: one by one in torch, not in the fused kernel: ")
    assert reason in line


def test_compiled_networks_and_other_networks_take_torch(tmp_path):
    assert dataclasses.replace(workbench_of(tmp_path), compiled=True).kernel is None
    network = {"kind": "mlp", "norm": "batch"}
    other = workbench_of(tmp_path, network=network)
    assert other.kernel is None and explain(other) == []


@pytest.mark.parametrize("steps", [50, None])
def test_batches_are_those_of_the_loader(tmp_path, steps):
    workbench = workbench_of(tmp_path, training={"steps": steps})
    loader, kernel = workbench.train_loader(0), pack_of(workbench, 1e-3).fused
    passes = loader.passes if isinstance(loader, StepEpochs) else loader
    inputs, labels = passes.samples()
    for epoch in (0, 1, 7, 3):
        order, bounds = kernel.batches(loader, epoch)
        expected = list(loader.epoch(epoch))
        assert len(bounds) == len(expected) + 1 and bounds[-1] == len(order)
        sizes = {len(targets) for _, targets in expected}
        assert sizes == {24, 8}
        for index, (images, targets) in enumerate(expected):
            rows = order[bounds[index] : bounds[index + 1]]
            assert torch.equal(inputs[rows], images) and torch.equal(labels[rows], targets)


def test_an_epoch_is_that_of_the_loop(tmp_path, monkeypatch):
    rates = 1e-4, 1e-3
    fused = pack_of(workbench_of(tmp_path), *rates)
    monkeypatch.setattr(Workbench, "kernel", None)
    eager = pack_of(workbench_of(tmp_path), *rates)
    assert eager.fused is None
    for epoch in range(2):
        ours, theirs = (pack.train(epoch, tested=True) for pack in (fused, eager))
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(ours.probes, theirs.probes, rtol=1e-3, atol=4e-3)
        torch.testing.assert_close(ours.norms, theirs.norms, rtol=1e-4, atol=1e-5)


def test_a_model_of_a_pack_has_the_bits_of_a_single_run(tmp_path):
    workbench, rates = workbench_of(tmp_path), (1e-3, 1e-1, 1.0)
    together = pack_of(workbench, *rates)
    with torch.no_grad():
        sick = pack_of(workbench, *rates)
        sick.model.layers[0].weight.chunk(3)[2].fill_(torch.nan)
    results = [together.train(epoch, tested=True) for epoch in range(2)][-1]
    beside = [sick.train(epoch, tested=True) for epoch in range(2)][-1]
    assert beside.scores[2, 0].isnan()
    for index, rate in enumerate(rates):
        single = pack_of(workbench, rate)
        own = [single.train(epoch, tested=True) for epoch in range(2)][-1]
        for found in [results] if index == 2 else [results, beside]:
            assert torch.equal(found.scores[index], own.scores[0])
            assert torch.equal(found.probes[index], own.probes[0])
            assert torch.equal(found.norms[index], own.norms[0])
            for name, value in own.states[0].items():
                assert torch.equal(found.states[index][name], value)


@pytest.mark.parametrize("epoch", [1, 3, 5])
def test_a_killed_sweep_resumes_in_the_same_bits(fasttrain, tmp_path, killed_at, epoch):
    path = tmp_path / "tick.toml"
    path.write_text(TOML)
    grid = ("sweep", path, "--pack", "3", "--checkpoint-s", "0")
    outcome = fasttrain(*grid, "--store", "whole")
    assert outcome.code == 0
    assert "steps: one fused kernel for all of an epoch (numba)" in outcome.out
    killed_at(epoch, *grid, "--store", "parts")
    assert fasttrain(*grid, "--store", "parts").code == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    records = [json.loads(p.read_text()) for p in (tmp_path / "whole").glob("*/done.json")]
    assert len(records) == 9
    assert {record["provenance"]["kernel"] for record in records} == {"numba"}


def test_a_model_that_diverges_ends_as_elsewhere(fasttrain, tmp_path):
    path = tmp_path / "tick.toml"
    path.write_text(TOML)
    assert fasttrain("sweep", path, "--plr", "1e-3,1e19", "--store", "runs").code == 0
    table = package.load(tmp_path / "runs").drop_duplicates("plr").set_index("plr")
    assert table["state"][1e-3] == "done"
    assert table["state"][1e19] in ("non-finite", "at-chance")
