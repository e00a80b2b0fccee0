"""Captured epochs give the bits of steps that are taken one by one; a stand-in records and replays.

The stand-in takes a step when it is replayed, and not when it is captured: as a graph does.
"""

import dataclasses

import pytest
import torch

from fasttrain.plan.config import Config, RunOptions, TrainingConfig
from fasttrain.settings.data.named import Named
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.kinds import ConvNet
from fasttrain.settings.optimizers.kinds import SGD, Adam
from fasttrain.training import captured as module
from fasttrain.training import pack as pack_module
from fasttrain.training.captured import WARM_UP, CapturedEpochs, why_not
from fasttrain.training.pack import Pack
from fasttrain.training.workbench import open_workbench

CPU = torch.device("cpu")
KNOBS = [Knobs(lr=1e-3), Knobs(lr=3e-3)]


class StandIn:
    """Records steps, and replays them; counts both."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, step, stream):
        assert stream is None
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            step()

        return replay


def workbench_of(folder, **training):
    config = Config(
        data=Named(kind="digits", n_train=150, n_test=20, flip=True, crop_padding=1),
        network=ConvNet(width=2),
        training=TrainingConfig(batch_size=16, **training),
    )
    return open_workbench(config, RunOptions(), folder / "store", CPU, "fp32", {})


def with_captures(monkeypatch, capture) -> None:
    monkeypatch.setattr(
        pack_module,
        "captured",
        lambda workbench, model, optimizer, loader, knobs: CapturedEpochs(
            model, workbench.loss, optimizer, loader, "fp32", CPU, capture
        ),
    )


def epochs(workbench, count: int = 5) -> list:
    pack = Pack(workbench, 0, KNOBS, None)
    return [pack.train(epoch, tested=True) for epoch in range(count)]


def assert_same(found: list, expected: list) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine.scores, other.scores)
        for a, b in zip(mine.states, other.states, strict=True):
            assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("steps", [None, 7])
def test_bits_are_those_of_steps_one_by_one(monkeypatch, tmp_path, steps):
    workbench = workbench_of(tmp_path, steps=steps)
    # Epochs of passes, of 10 batches each, or of 7 steps wherever a pass ends.
    count = 5 if steps is None else 7
    expected = epochs(workbench, count)
    stand_in = StandIn()
    with_captures(monkeypatch, stand_in)
    assert_same(epochs(workbench, count), expected)
    # One graph for whole batches and one for the short last one, each warm before it is made.
    assert stand_in.captures == 2
    assert stand_in.replays == count * workbench.steps_per_epoch - 2 * WARM_UP


def test_what_cannot_be_captured_goes_on_without(monkeypatch, tmp_path, capsys):
    def fails(step, stream):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(module, "_said", set())
    workbench = workbench_of(tmp_path)
    expected = epochs(workbench)
    with_captures(monkeypatch, fails)
    assert_same(epochs(workbench), expected)
    epochs(workbench, 3)
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        "training steps are not captured as CUDA graphs: CUDA error: operation not permitted when"
        " stream is capturing"
    )


def test_what_the_host_decides_is_not_captured(tmp_path):
    workbench = workbench_of(tmp_path)

    def reason(optimizer=None, knobs=KNOBS):
        config = workbench.config
        changed = config if optimizer is None else dataclasses.replace(config, optimizer=optimizer)
        own = dataclasses.replace(workbench, config=changed)
        model = own.new_model(0, len(knobs), [one.noise for one in knobs])
        return why_not(model, own.new_optimizer(model, 0, knobs), own.train_loader(0), knobs)

    assert reason() is None
    assert reason(SGD(momentum=0.9)) is None
    assert "a count that the host keeps" in reason(Adam())
    assert "noise is drawn" in reason(SGD(gradient_noise=0.1))
    assert "noise is drawn" in reason(SGD(), [Knobs(lr=1e-3, noise=0.1)])


def test_no_graph_is_asked_for_on_a_cpu(tmp_path):
    assert Pack(workbench_of(tmp_path), 0, KNOBS, None).captured is None
