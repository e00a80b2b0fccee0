"""A training step can be captured as a CUDA graph: nothing of it comes from the host or goes there.

Shown on a CPU, with the operations that a GPU is given, where they differ: normalisation in torch,
optimiser and augmentation through the launchers of Triton, whose launches are counted, not run.
"""

import functools
import itertools
from typing import Any

import pytest
import torch

from fasttrain.plan.config import Config, RunOptions
from fasttrain.settings import losses
from fasttrain.settings.data.named import Named
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.kinds import ConvNet, ResNet18, ViTSmall
from fasttrain.settings.optimizers import adam as adam_module
from fasttrain.settings.optimizers.kinds import SGD, Adam, Sphere
from fasttrain.training.captured import CapturedEpochs
from fasttrain.training.loop import sums_of, train_step
from fasttrain.training.workbench import open_workbench
from fasttrain.training.working_copies import copies_for
from fasttrain_data.cursor import Cursor
from fasttrain_kernels import NormReLUPool
from fasttrain_kernels.augment import augment as augment_module
from fasttrain_kernels.cross_entropy import loss as loss_module
from fasttrain_kernels.optimizers import base, binding, sphere_sgd, statistics

from .capturable import NotCapturable, Recorded, assert_capturable, recorded

CPU = torch.device("cpu")
NETWORKS = {
    "convnet": ConvNet(width=4, radius=5.0),
    "resnet18": ResNet18(width=4, radius=5.0),
}
PRACTICAL = ConvNet(width=4, form="practical")
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"network": network} for name, network in NETWORKS.items()},
    "practical": {"network": PRACTICAL, "optimizer": SGD(momentum=0.9)},
    "noise": {"network": NETWORKS["resnet18"], "noise": 0.1},
    "gradient noise": {"network": PRACTICAL, "optimizer": SGD(gradient_noise=0.1)},
    "adam": {"network": PRACTICAL, "optimizer": Adam(weight_decay=0.1)},
    "adamw": {"network": PRACTICAL, "optimizer": Adam(weight_decay=0.1, decoupled=True)},
    "randaugment": {"network": NETWORKS["convnet"], "rand": "torchvision"},
    "absolute": {"network": NETWORKS["convnet"], "rand": "absolute"},
    "vit": {"network": ViTSmall(width=8, depth=1, heads=2), "optimizer": Adam(decoupled=True)},
}


def step_of(
    folder, network=None, size=1, precision="fp32", *, optimizer=None, noise=0.0, rand="none"
):
    """One training step of a pack, as captured epochs take it."""
    data = Named(kind="digits", n_train=320, n_test=20, rand_augment=rand)
    config = Config(data=data, network=network, optimizer=optimizer or Sphere())
    workbench = open_workbench(config, RunOptions(), folder / "store", CPU, precision, {})
    knobs = [Knobs(lr=1e-3 * (1 + index), noise=noise * (1 + index)) for index in range(size)]
    model = workbench.new_model(0, size, [one.noise for one in knobs])
    optimizer = workbench.new_optimizer(model, 0, knobs)
    optimizer.start_()
    copies = copies_for(model, optimizer, precision)
    cursor = Cursor(workbench.passes(0))
    sums = sums_of(model, workbench.loss, CPU)
    cursor.begin_(0)

    def step() -> None:
        batch = cursor.next(32)
        train_step(model, workbench.loss, optimizer, batch, sums, precision, CPU, copies)

    return step


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Launches of our kernels; what they would compute is left out."""
    triton = pytest.importorskip("triton", reason="Triton is not installed here")
    from fasttrain_kernels.step.triton import launch

    launches: list[str] = []
    monkeypatch.setattr(NormReLUPool, "fused", lambda self, input: False)
    for module in (base, binding, statistics):
        monkeypatch.setattr(module, "choose_backend", lambda tensors, name=None: "triton")
    monkeypatch.setattr(adam_module, "takes_decays", lambda device: False)
    # It looks at rates on the host alone.
    monkeypatch.setattr(sphere_sgd, "is_zero", lambda lr: False)
    # Tables of addresses, which a host's allocator changes as it likes: a capture has memory of its
    # own, and copies a table by itself (`tests/kernels/test_triton_launch.py`).
    table = functools.cache(lambda count: torch.zeros(count, dtype=torch.int64))
    monkeypatch.setattr(launch.Blocks, "table", lambda self, tensors: table(len(tensors)))
    monkeypatch.setattr(augment_module, "_choose", lambda device, backend: "triton")
    for module in (losses, loss_module):
        monkeypatch.setattr(module, "choose_loss_backend", lambda *_: "triton")
    monkeypatch.setattr(
        triton.runtime.jit.JITFunction,
        "run",
        lambda self, *arguments, **options: launches.append(self.fn.__name__),
    )
    return launches


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_can_be_captured(as_on_a_gpu, tmp_path, setting, size, precision):
    size = 1 if setting == "vit" else size
    assert assert_capturable(step_of(tmp_path, size=size, precision=precision, **SETTINGS[setting]))
    assert set(as_on_a_gpu) >= {"_augment_kernel", "_cross_entropy_kernel", "_totals_kernel"}


OUTSIDE = 5
"""launches outside of forward and backward pass; docs/performance.md lists them"""
NO_LAUNCH = ("aten.empty", "aten._unsafe_view", "aten.promote_types")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", ["convnet", "resnet18"])
def test_operations_outside_of_the_network_do_not_grow(
    as_on_a_gpu, tmp_path, monkeypatch, network, precision
):
    step = step_of(tmp_path, NETWORKS[network], 3, precision)
    assert not operations_outside(step, monkeypatch, as_on_a_gpu)
    assert as_on_a_gpu == [
        "_augment_kernel",
        "_cross_entropy_kernel",
        "_step_kernel",
        "_apply_kernel",
        "_totals_kernel",
    ]
    assert len(as_on_a_gpu) == OUTSIDE


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_of_adams_step_statistics_are_two_launches(as_on_a_gpu, tmp_path, monkeypatch, kind):
    outside = operations_outside(
        step_of(tmp_path, size=3, **SETTINGS[kind]), monkeypatch, as_on_a_gpu
    )
    assert all(name.startswith(("aten._foreach", "aten._fused_adam")) for name in outside)
    assert as_on_a_gpu == [
        "_augment_kernel",
        "_cross_entropy_kernel",
        "_sums_kernel",
        "_totals_kernel",
    ]


def operations_outside(step, monkeypatch, launches: list[str]) -> list[str]:
    """Operations of torch in a step besides those of the network; its `launches` anew."""
    assert_capturable(step)
    inside: list[range] = []
    forward, backward = torch.nn.Module.__call__, torch.Tensor.backward

    def counted(function):
        depth = 0

        def call(*arguments, **options):
            nonlocal depth
            depth += 1
            try:
                before = len(mode.calls)
                return function(*arguments, **options)
            finally:
                depth -= 1
                if not depth:
                    inside.append(range(before, len(mode.calls)))

        return call

    monkeypatch.setattr(torch.nn.Module, "__call__", counted(forward))
    monkeypatch.setattr(torch.Tensor, "backward", counted(backward))
    launches.clear()
    with Recorded() as mode:
        step()
    assert len(inside) == 2
    of_the_network = set(itertools.chain.from_iterable(inside))
    outside = [name for place, (name, _) in enumerate(mode.calls) if place not in of_the_network]
    return [name for name in outside if not name.startswith(NO_LAUNCH)]


def test_reads_are_found():
    values = torch.arange(3.0)
    for read in (
        lambda: values.sum().item(),
        lambda: float(values[0]),
        lambda: bool(values[0] > 0),
        lambda: values.nonzero(),
        lambda: values[values > 0],
        lambda: torch.equal(values, values),
    ):
        with pytest.raises(NotCapturable, match="the host reads"):
            recorded(read)
    with pytest.raises(NotCapturable, match="the host brings"):
        recorded(lambda: values + torch.tensor([1.0, 2.0, 3.0]))


def test_scalars_and_shapes_that_change_are_found():
    values, steps = torch.arange(8.0), itertools.count(1)
    for changing in (
        lambda: values * next(steps),
        lambda: values[: next(steps)] + 1,
        lambda: [values.add_(1) for _ in range(next(steps))],
    ):
        with pytest.raises(NotCapturable):
            assert_capturable(changing, warm_up=0)


def test_captured_epochs_are_what_is_tested_here():
    """The step above is the one that a graph is made of."""
    names = CapturedEpochs._take.__code__.co_names
    assert {"train_step", "cursor", "next", "copies"} <= set(names)
