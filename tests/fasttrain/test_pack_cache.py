"""What was measured of packs is found again for the same steps, and for no others; memory."""

import dataclasses
import types

import pytest
import torch

from fasttrain.execution import measured
from fasttrain.execution import pack_size as module
from fasttrain.execution.measured import first_knobs
from fasttrain.experiments.kinds import Chain, Leg
from fasttrain.machine import memory
from fasttrain.plan.config import Config, GridConfig, RunOptions, TrainingConfig
from fasttrain.settings.data.named import Named
from fasttrain.settings.networks.kinds import ConvNet
from fasttrain.settings.networks.noise import NoisyNorm
from fasttrain.settings.optimizers.kinds import SGD, Sphere
from fasttrain.training.captured import CapturedEpochs
from fasttrain.training.workbench import open_workbench

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
BASE = Config(
    data=Named(kind="digits", n_train=150, n_test=20),
    network=ConvNet(width=2),
    training=TrainingConfig(batch_size=64),
)


def workbench_of(folder, **parts):
    config = dataclasses.replace(BASE, **parts)
    return open_workbench(config, RunOptions(), folder / "store", CPU, "fp32", {})


def data(**values):
    return {"data": dataclasses.replace(BASE.data, **values)}


def training(**values):
    return {"training": dataclasses.replace(BASE.training, **values)}


def chain(**values):
    return {"experiment": Chain(legs=((Leg(lr=(1e-3,), epochs=1, **values),),))}


OTHERS = {
    "flip": data(flip=True),
    "crop": data(crop_padding=2),
    "RandAugment": data(rand_augment="torchvision"),
    "operations": data(rand_augment="torchvision", rand_ops=3),
    "images": data(n_train=140),
    "width": {"network": ConvNet(width=4)},
    "gradient noise": {"optimizer": SGD(gradient_noise=0.1)},
    "loss": training(loss="squared"),
    "batch": training(batch_size=32),
    "steps": training(steps=7),
    "noise": chain(noise=(0.0, 0.1)),
    "decays": {"optimizer": SGD(), **chain(weight_decay=(0.1,))},
}
SAME = {
    "rates": {"grid": GridConfig(plr=(1e-2,), seeds=3)},
    "lengths": training(epochs=7, evaluate_every=2),
    "a chain of the same legs": chain(),
    "where": data(loader="auto"),
}


def test_other_steps_have_timings_of_their_own(tmp_path):
    keys = {
        name: module._key(workbench_of(tmp_path, **parts), 8, 1) for name, parts in OTHERS.items()
    }
    keys["itself"] = module._key(workbench_of(tmp_path), 8, 1)
    keys["sgd"] = module._key(workbench_of(tmp_path, optimizer=SGD()), 8, 1)
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize("name", SAME)
def test_the_same_steps_share_timings(tmp_path, name):
    mine, other = workbench_of(tmp_path), workbench_of(tmp_path, **SAME[name])
    assert module._key(mine, 8, 1) == module._key(other, 8, 1)


@pytest.mark.parametrize("what", ["fasttrain", "fasttrain-kernels", "triton", "torch", "threads"])
def test_what_another_version_measured_is_measured_again(tmp_path, monkeypatch, what):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes = []

    def measure(workbench, size):
        sizes.append(size)
        return measured.Timing(size, 0.001 * size, 0.001, 1)

    monkeypatch.setattr(module, "measure", measure)
    workbench = workbench_of(tmp_path)
    for _ in range(2):
        module.measure_packs(workbench, 2, 1)
    assert sizes == [1, 2]
    if what == "fasttrain":
        monkeypatch.setattr(module, "installed", lambda: "97.5.31")
    elif what in ("fasttrain-kernels", "triton"):
        known = module.metadata.version
        monkeypatch.setattr(
            module.metadata, "version", lambda name: "97.5.31" if name == what else known(name)
        )
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "97.5.31")
    else:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 97)
    module.measure_packs(workbench, 2, 1)
    assert sizes == [1, 2, 1, 2]


def test_packs_are_measured_with_the_knobs_of_first_legs(tmp_path):
    legs = Leg(lr=(1e-3, 1e-2), epochs=1, noise=(0.0, 0.1)), Leg(lr=(1e-4,), epochs=1)
    noisy = workbench_of(tmp_path, experiment=Chain(legs=(legs,)))
    assert first_knobs(noisy.config).given() == {"lr": 1e-3, "noise": 0.1}
    model, _, knobs = measured._made(noisy, 2)
    assert [one.noise for one in knobs] == [0.1, 0.1]
    assert any(isinstance(m, NoisyNorm) for m in model.modules())
    assert first_knobs(Config(grid=GridConfig(plr=(3e-3, 1e-1)))).given() == {"lr": 3e-3}


@pytest.mark.parametrize("noise", [(), (0.1,)])
def test_what_draws_is_not_measured_on_streams(noise):
    config = dataclasses.replace(BASE, **chain(noise=noise))
    workbench = types.SimpleNamespace(config=config, device=CUDA)
    assert module.ways(workbench) == (("grouped",) if noise else ("grouped", "streams"))


class Allocator:
    """A stand-in for torch's: bytes given out, and bytes reserved, the rest of which it keeps."""

    def __init__(self) -> None:
        self.allocated = self.most_allocated = 10
        self.reserved = self.most_reserved = 100
        self.pools = 0

    def give(self, count: int) -> None:
        """Outside of graphs, of what is kept if there is any."""
        self.allocated += count
        self.reserved = max(self.reserved, self.allocated + self.pools)
        self.most_allocated = max(self.most_allocated, self.allocated)
        self.most_reserved = max(self.most_reserved, self.reserved)

    def pool(self, allocated: int, reserved: int) -> None:
        """A graph's own, of which nothing is given out once it is captured."""
        self.most_allocated = max(self.most_allocated, self.allocated + allocated)
        self.pools += reserved
        self.reserved += reserved
        self.most_reserved = max(self.most_reserved, self.reserved)

    def empty_cache(self) -> None:
        self.reserved = self.allocated + self.pools

    def reset_peak_memory_stats(self, device) -> None:
        self.most_allocated, self.most_reserved = self.allocated, self.reserved


@pytest.fixture
def allocator(monkeypatch) -> Allocator:
    """In the place of torch's, for what is measured of memory on any device."""
    made = Allocator()
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    for name, field in (
        ("memory_allocated", "allocated"),
        ("memory_reserved", "reserved"),
        ("max_memory_allocated", "most_allocated"),
        ("max_memory_reserved", "most_reserved"),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, field=field: getattr(made, field))
    monkeypatch.setattr(measured, "reset_peak", lambda device: memory.reset_peak(CUDA))
    monkeypatch.setattr(measured, "peak_bytes", lambda device: memory.peak_bytes(CUDA))
    monkeypatch.setattr(measured, "WINDOW_S", 0.0)
    return made


@pytest.mark.parametrize("size", [2, 4])
def test_models_on_streams_take_the_pools_of_all_their_graphs(
    tmp_path, monkeypatch, allocator, size
):
    """One graph for whole batches and one for the short last one, of each model."""

    def capture(step, stream):
        # Of what it has to itself it gives back what it needs no more: the next ones cannot use it.
        allocator.pool(300, 400)
        return step

    def captured(workbench, model, optimizer, loader):
        allocator.give(50)
        return CapturedEpochs(model, workbench.loss, optimizer, loader, "fp32", CPU, capture)

    monkeypatch.setattr(measured, "captured", captured)
    timing = measured.measure_streams(workbench_of(tmp_path, optimizer=Sphere()), size)
    # What torch had kept without need before is none of theirs.
    assert timing.memory_bytes == size * (50 + 2 * 400)
    grouped = measured.measure(workbench_of(tmp_path), size)
    assert grouped.memory_bytes == 50 + 2 * 400
