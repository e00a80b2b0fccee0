"""Captured epochs give the bits of steps that are taken one by one; a stand-in records and replays.

The stand-in takes a step when it is replayed, and not when it is captured: as a graph does.
"""

import pytest
import torch

from fasttrain.plan.config import Config, RunOptions, TrainingConfig
from fasttrain.settings.data.named import Named
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.kinds import ConvNet, CustomNetwork, ViTSmall
from fasttrain.settings.optimizers.kinds import SGD, Adam, CustomOptimizer, Sphere
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


def workbench_of(folder, network=None, optimizer=None, data=None, **training):
    options = {"kind": "digits", "n_train": 150, "n_test": 20, "flip": True, "crop_padding": 1}
    config = Config(
        data=Named(**{**options, **(data or {})}),
        network=network or ConvNet(width=2),
        optimizer=optimizer or Sphere(),
        training=TrainingConfig(batch_size=16, **training),
    )
    return open_workbench(config, RunOptions(), folder / "store", CPU, "fp32", {})


def with_captures(monkeypatch, capture) -> None:
    monkeypatch.setattr(
        pack_module,
        "captured",
        lambda workbench, model, optimizer, loader: CapturedEpochs(
            model,
            workbench.loss,
            optimizer,
            loader,
            "fp32",
            CPU,
            capture,
            lambda: workbench.graphs.clear(CPU),
        ),
    )


def epochs(workbench, count: int = 5, knobs=KNOBS) -> list:
    pack = Pack(workbench, 0, knobs, None)
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


NOISY = [Knobs(lr=1e-3, noise=0.3), Knobs(lr=3e-3, noise=0.1)]
SETTINGS = {
    "noise": ({}, NOISY),
    "gradient noise": ({"optimizer": SGD(gradient_noise=0.1)}, KNOBS),
    "dropout": (
        {"network": ViTSmall(patch=4, width=8, depth=1, heads=2), "optimizer": SGD()},
        KNOBS[:1],
    ),
    "adam": ({"optimizer": Adam(weight_decay=0.1)}, KNOBS),
    "adamw": ({"optimizer": Adam(weight_decay=0.1, decoupled=True)}, KNOBS),
    "randaugment": ({"data": {"rand_augment": "torchvision"}}, KNOBS),
    "absolute": ({"data": {"rand_augment": "absolute", "rand_ops": 3}}, KNOBS),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_drawn_and_counted_is_that_of_steps_one_by_one(monkeypatch, tmp_path, name):
    setting, knobs = SETTINGS[name]
    workbench = workbench_of(tmp_path, **setting)
    expected = epochs(workbench, 3, knobs)
    stand_in = StandIn()
    with_captures(monkeypatch, stand_in)
    assert_same(epochs(workbench, 3, knobs), expected)
    assert stand_in.replays == 3 * workbench.steps_per_epoch - 2 * WARM_UP
    # What an epoch draws is its own, whatever came before: a run goes on as it was.
    last = Pack(workbench, 0, knobs, expected[1].states, optimizers=expected[1].optimizers)
    assert_same([last.train(2, tested=True)], expected[2:])


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


def plain_adam(parameters, lr):
    return torch.optim.Adam(parameters, lr)


def test_what_the_host_decides_is_not_captured(tmp_path):
    def reason(optimizer=None, network=None, knobs=KNOBS):
        own = workbench_of(tmp_path, network, optimizer)
        model = own.new_model(0, len(knobs), [one.noise for one in knobs])
        return why_not(own, own.new_optimizer(model, 0, knobs), own.train_loader(0))

    assert reason() is None
    assert reason(SGD(momentum=0.9)) is None
    assert reason(Adam()) is None
    assert reason(SGD(gradient_noise=0.1)) is None
    assert reason(SGD(), knobs=[Knobs(lr=1e-3, noise=0.1)]) is None
    assert reason(Adam(), SETTINGS["dropout"][0]["network"], KNOBS[:1]) is None
    own = CustomOptimizer(factory=f"{__name__}:plain_adam")
    assert "optimizer.kind = 'custom' may depend" in (reason(own) or "")
    network = CustomNetwork(factory="tests.fasttrain.own_parts:PlainNet")
    assert "network.kind = 'custom' may depend" in (reason(SGD(), network, KNOBS[:1]) or "")


def test_no_graph_is_asked_for_on_a_cpu(tmp_path):
    assert Pack(workbench_of(tmp_path), 0, KNOBS, None).captured is None
