"""Training on bf16 copies of the weights has the bits of training with autocast's casts, and none.

On a CPU, with a stand-in for CUDA graphs: steps are the captured ones, and as exact as elsewhere.
"""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fasttrain.plan.config import Config, RunOptions, TrainingConfig
from fasttrain.settings.data.named import Named
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.kinds import MLP, ConvNet, CustomNetwork, ResNet18, ViTSmall
from fasttrain.settings.optimizers.kinds import SGD, Adam, Sphere
from fasttrain.training import pack as pack_module
from fasttrain.training.captured import CapturedEpochs
from fasttrain.training.loop import sums_of, train_step
from fasttrain.training.pack import Pack
from fasttrain.training.workbench import open_workbench
from fasttrain.training.working_copies import copies_for

CPU = torch.device("cpu")
NETWORKS: dict[str, tuple[Any, int]] = {
    "convnet": (ConvNet(width=4), 6),
    "practical": (ConvNet(width=4, form="practical"), 6),
    "weight norm": (ConvNet(width=4, norm="weight"), 2),
    "resnet18": (ResNet18(width=2), 21),
    "mlp": (MLP(width=16), 4),
    "vit": (ViTSmall(patch=4, width=8, depth=1, heads=2), 11),
}
"""networks on digits, and how many of their parameters have a copy"""
SPHERE, MOMENTUM = Sphere(), SGD(momentum=0.9, nesterov=True, weight_decay=0.01)
ADAM = Adam(weight_decay=0.1)
CASES = [
    *((name, SPHERE, size) for name in ("convnet", "resnet18", "mlp") for size in (1, 3)),
    ("convnet", Sphere(scope="filter"), 3),
    ("practical", MOMENTUM, 3),
    ("practical", SGD(), 1),
    ("practical", ADAM, 3),
    ("weight norm", MOMENTUM, 1),
    ("resnet18", ADAM, 1),
    ("vit", MOMENTUM, 1),
    ("vit", Adam(decoupled=True), 1),
]


def workbench_of(folder, network, optimizer):
    config = Config(
        data=Named(kind="digits", n_train=90, n_test=20, flip=True, crop_padding=1),
        network=network,
        optimizer=optimizer,
        training=TrainingConfig(batch_size=16),
    )
    return open_workbench(config, RunOptions(), folder / "store", CPU, "bf16", {})


@pytest.fixture
def captured(monkeypatch):
    """Packs train as on a GPU; the epochs that were made."""
    made = []

    def epochs(workbench, model, optimizer, loader):
        where = workbench.precision, workbench.device
        made.append(
            CapturedEpochs(
                model, workbench.loss, optimizer, loader, *where, lambda step, stream: step
            )
        )
        return made[-1]

    monkeypatch.setattr(pack_module, "captured", epochs)
    return made


def knobs(size):
    return [Knobs(lr=1e-3 * (1 + index)) for index in range(size)]


def one_by_one(workbench, size, count=3, seed=0):
    """Epochs of steps that autocast casts for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_module, "captured", lambda *_: None)
        pack = Pack(workbench, seed, knobs(size), None)
        return [pack.train(epoch, tested=True) for epoch in range(count)]


def assert_same(found, expected):
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine.scores, other.scores) and torch.equal(mine.norms, other.norms)
        for kind in ("states", "optimizers"):
            for a, b in zip(getattr(mine, kind), getattr(other, kind), strict=True):
                assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("name", "optimizer", "size"), CASES)
def test_bits_are_those_of_casts(captured, tmp_path, name, optimizer, size):
    network, count = NETWORKS[name]
    workbench = workbench_of(tmp_path, network, optimizer)
    expected = one_by_one(workbench, size)
    pack = Pack(workbench, 0, knobs(size), None)
    assert_same([pack.train(epoch, tested=True) for epoch in range(3)], expected)
    [epochs] = captured
    assert len(epochs.copies.copies) == count
    # Whole batches had a graph in the end.
    assert set(epochs.graphs) == {16}
    for weight, copy in epochs.copies.copies.items():
        assert torch.equal(copy, weight.bfloat16()) and weight.dtype == torch.float32


def test_the_next_pack_begins_with_copies_of_its_own_weights(captured, tmp_path):
    workbench = workbench_of(tmp_path, ConvNet(width=4), SPHERE)
    expected = {seed: one_by_one(workbench, 2, seed=seed) for seed in (0, 1)}
    for seed in (0, 1):
        pack = Pack(workbench, seed, knobs(2), None)
        assert_same([pack.train(epoch, tested=True) for epoch in range(3)], expected[seed])
        pack.close()
    # And one that goes on from a checkpoint.
    middle = expected[0][1]
    pack = Pack(workbench, 0, knobs(2), middle.states, optimizers=middle.optimizers)
    assert_same([pack.train(2, tested=True)], expected[0][2:])
    assert len(captured) == 1 and len(captured[0].copies.copies) == 6


def test_no_copies_where_they_would_change_something(tmp_path):
    def of(optimizer, precision):
        workbench = workbench_of(tmp_path, ConvNet(width=4, form="practical"), optimizer)
        model = workbench.new_model(0)
        return copies_for(model, workbench.new_optimizer(model, 0, knobs(1)), precision)

    assert of(SGD(), "bf16") is not None
    assert of(SGD(), "fp32") is None
    # Noise on gradients is added in fp32.
    assert of(SGD(gradient_noise=0.1), "bf16") is None


@pytest.mark.parametrize("optimizer", [SPHERE, ADAM])
def test_an_optimizer_writes_the_copies_of_one_pass(tmp_path, optimizer):
    workbench = workbench_of(tmp_path, ConvNet(width=4), optimizer)
    model = workbench.new_model(0)
    made = workbench.new_optimizer(model, 0, knobs(1))
    weight = next(p for p in model.parameters() if p.ndim > 1)
    made.write_copies({weight: torch.empty_like(weight, dtype=torch.bfloat16)})
    with pytest.raises(AssertionError, match="copies that another pass reads"):
        made.write_copies({weight: torch.empty_like(weight, dtype=torch.bfloat16)})


class Casts(TorchDispatchMode):
    """Counts casts of weights to bf16, and of what may be their gradients back."""

    def __init__(self, model):
        super().__init__()
        self.shapes = {tuple(weight.shape) for weight in model.parameters()}
        self.places = {weight.data_ptr() for weight in model.parameters()}
        self.forward = self.backward = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten._to_copy:
            types = args[0].dtype, found.dtype
            if types == (torch.float32, torch.bfloat16):
                self.forward += args[0].data_ptr() in self.places
            elif types == (torch.bfloat16, torch.float32):
                self.backward += tuple(found.shape) in self.shapes
        return found


@pytest.mark.parametrize(
    ("name", "size", "optimizer", "trained"),
    [
        ("convnet", 1, SPHERE, 4),
        ("convnet", 3, SPHERE, 4),
        ("resnet18", 1, SPHERE, 20),
        ("mlp", 3, SPHERE, 2),
        ("practical", 1, MOMENTUM, 6),
        ("vit", 1, MOMENTUM, 11),
    ],
)
def test_no_weight_is_cast(monkeypatch, tmp_path, name, size, optimizer, trained):
    # As on a GPU: the images come in bf16, the loss begins with its gradient.
    network, count = NETWORKS[name]
    workbench = workbench_of(tmp_path, network, optimizer)
    model = workbench.new_model(0, size)
    made = workbench.new_optimizer(model, 0, knobs(size))
    made.start_()
    copies = copies_for(model, made, "bf16")
    batch = next(iter(workbench.passes(0).epoch(0)))
    monkeypatch.setattr(made, "step", lambda: None)

    def casts(own):
        with Casts(model) as mode:
            sums = sums_of(model, workbench.loss, CPU)
            train_step(model, workbench.loss, made, batch, sums, "bf16", CPU, own)
        return mode.forward, mode.backward

    monkeypatch.setattr(made, "add_effective_grad_norm_", lambda total: None)
    assert casts(None) == casts(copies) == (count, trained)
    assert casts(copies) == casts(copies) == (0, 0)


def test_own_networks_train_without(tmp_path):
    """They may ask for the type of their weights, and their steps are not captured."""
    network = CustomNetwork(factory="tests.fasttrain.own_parts:PlainNet")
    workbench = workbench_of(tmp_path, network, SGD())
    pack = Pack(workbench, 0, knobs(1), None)
    pack.train(0, tested=False)
    assert pack.captured is None
