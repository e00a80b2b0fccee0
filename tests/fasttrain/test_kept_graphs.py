"""Graphs that outlive their pack: the next pack has the bits of a fresh one, at the same addresses.

The stand-in repeats Python, which would follow new tensors: so addresses are looked at besides.
"""

import dataclasses
import gc
import math
import weakref

import pytest
import torch

from fasttrain.execution.packing import make_packs
from fasttrain.plan.config import Config, RunOptions, TrainingConfig
from fasttrain.plan.stages import setup_sections
from fasttrain.plan.trees import build
from fasttrain.settings.data.named import Named
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.kinds import ConvNet, ResNet18
from fasttrain.settings.optimizers import adam as adam_module
from fasttrain.settings.optimizers import fused as fused_module
from fasttrain.settings.optimizers.groups import Trained
from fasttrain.settings.optimizers.kinds import SGD, Adam, Sphere
from fasttrain.training import captured as captured_module
from fasttrain.training import kept as module
from fasttrain.training.pack import Pack
from fasttrain.training.run_pack import run_pack
from fasttrain.training.workbench import open_workbench

from .test_captured import CPU, StandIn, assert_same, with_captures

SETTINGS = {
    "sphere": (ConvNet(width=2), Sphere()),
    "per tensor": (ConvNet(width=2), Sphere(scope="tensor")),
    "momentum": (ConvNet(width=2, form="practical"), SGD(momentum=0.9)),
    "resnet": (ResNet18(width=2), Sphere()),
    "noise": (ConvNet(width=2), Sphere()),
    "adam": (ConvNet(width=2, form="practical"), Adam()),
    "adamw": (ConvNet(width=2, form="practical"), Adam(decoupled=True)),
}
KNOBS = [Knobs(lr=1e-3, weight_decay=1e-3), Knobs(lr=3e-3, weight_decay=1e-2)]
OTHERS = [Knobs(lr=2e-3, weight_decay=0.1), Knobs(lr=1e-2, weight_decay=0.0)]


def workbench_of(folder, name="sphere", **training):
    network, optimizer = SETTINGS[name]
    config = Config(
        data=Named(kind="digits", n_train=80, n_test=20, flip=True, crop_padding=1),
        network=network,
        optimizer=optimizer,
        training=TrainingConfig(batch_size=32, **training),
    )
    return open_workbench(config, RunOptions(), folder / "store", CPU, "fp32", {})


def of(name, knobs):
    """Knobs that a setting takes: on a sphere nothing decays."""
    if name == "noise":
        knobs = [dataclasses.replace(k, noise=30 * k.lr) for k in knobs]
    sphere = isinstance(SETTINGS[name][1], Sphere)
    return [dataclasses.replace(k, weight_decay=None) for k in knobs] if sphere else knobs


@pytest.fixture(autouse=True)
def decays_on_the_device(monkeypatch):
    """As on a GPU: Adam's kernel is not told them as numbers."""
    monkeypatch.setattr(adam_module, "takes_decays", lambda device: False)


def trained(workbench, knobs, seed=0, first=0, count=2, **start):
    pack = Pack(workbench, seed, knobs, start.pop("states", None), **start)
    return pack, [pack.train(epoch, tested=True) for epoch in range(first, first + count)]


def addresses(pack):
    """Of everything that a step reads and writes from one to the next."""
    parts = pack.optimizer.optimizers()
    options = [v for part in parts for group in part.param_groups for v in group.values()]
    states = [b for part in parts for s in part.state.values() for b in s.values()]
    cursor, sums = vars(pack.captured.cursor), vars(pack.captured.sums)
    held = [*pack.model.parameters(), *pack.model.buffers(), *states, *options]
    held += [*cursor.values(), *sums.values()]
    return [value.data_ptr() for value in held if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_next_pack_has_the_bits_of_a_fresh_one(monkeypatch, tmp_path, name):
    one, other = of(name, KNOBS), of(name, OTHERS)
    plain = workbench_of(tmp_path, name)
    _, first = trained(plain, one, count=4)
    resumed = {"states": first[1].states, "optimizers": first[1].optimizers}
    wanted = [
        first,
        trained(plain, other, seed=1, count=4)[1],
        trained(plain, one, first=2, **resumed)[1],
        trained(plain, other)[1],
    ]
    stand_in = StandIn()
    with_captures(monkeypatch, stand_in)
    workbench = workbench_of(tmp_path, name)
    found, seen = [], []
    for knobs, options in (
        (one, {"count": 4}),
        (other, {"seed": 1, "count": 4}),
        (one, {"first": 2, **resumed}),
        (other, {}),
    ):
        pack, epochs = trained(workbench, knobs, **options)
        found.append(epochs)
        seen.append(addresses(pack))
        pack.close()
    for mine, fresh in zip(found, wanted, strict=True):
        assert_same(mine, fresh)
        for a, b in zip(mine, fresh, strict=True):
            assert all(
                torch.equal(x[key], y[key])
                for x, y in zip(a.optimizers, b.optimizers, strict=True)
                for key in y
            )
    assert seen[0] == seen[1] == seen[2] == seen[3]
    # Whole batches and the short last one, once for all four.
    assert stand_in.captures == 2


@pytest.mark.parametrize("name", ["sphere", "momentum", "adam"])
def test_nothing_is_left_of_a_run_that_diverged(monkeypatch, tmp_path, name):
    knobs = of(name, KNOBS)
    _, wanted = trained(workbench_of(tmp_path, name), knobs)
    with_captures(monkeypatch, StandIn())
    workbench = workbench_of(tmp_path, name)
    start = workbench.initial_state(0)
    lost = {n: v.fill_(math.nan) if v.is_floating_point() else v for n, v in start.items()}
    pack, epochs = trained(workbench, knobs, count=4, states=[lost] * 2)
    assert not epochs[-1].scores[:, 0].isfinite().any()
    pack.close()
    again, found = trained(workbench, knobs)
    assert again.captured is pack.captured
    assert_same(found, wanted)


def test_a_pack_that_is_not_closed_keeps_its_graphs_to_itself(monkeypatch, tmp_path):
    with_captures(monkeypatch, StandIn())
    workbench, knobs = workbench_of(tmp_path), of("sphere", KNOBS)
    pack, _ = trained(workbench, knobs, count=4)
    assert trained(workbench, knobs)[0].captured is not pack.captured
    pack.close()
    # Taken, it is no third pack's.
    assert Pack(workbench, 0, knobs, None).captured is pack.captured
    assert Pack(workbench, 0, knobs, None).captured is not pack.captured


def test_other_sizes_and_other_forms_have_their_own(monkeypatch, tmp_path):
    stand_in = StandIn()
    with_captures(monkeypatch, stand_in)
    workbench = workbench_of(tmp_path, "momentum")
    same = [dataclasses.replace(k, weight_decay=0.1) for k in KNOBS]
    for number, knobs in enumerate((KNOBS, KNOBS[:1], same, KNOBS)):
        pack, found = trained(workbench, knobs, count=4)
        assert_same(found, trained(workbench_of(tmp_path, "momentum"), knobs, count=4)[1])
        pack.close()
        assert len(workbench.graphs.kept) == min(2, number + 1)


def test_packs_without_noise_have_their_own_network(monkeypatch, tmp_path):
    """With it, normalisation and ReLU are several operations instead of one."""
    with_captures(monkeypatch, StandIn())
    workbench = workbench_of(tmp_path)
    for knobs in (of("noise", KNOBS), of("sphere", KNOBS)):
        pack, found = trained(workbench, knobs, count=4)
        assert_same(found, trained(workbench_of(tmp_path), knobs, count=4)[1])
        pack.close()
    assert len(workbench.graphs.kept) == 2


def test_of_many_the_oldest_are_dropped(monkeypatch, tmp_path):
    with_captures(monkeypatch, StandIn())
    workbench = workbench_of(tmp_path)
    for size in range(1, module.MOST + 2):
        pack, _ = trained(workbench, [Knobs(lr=1e-3)] * size, count=4)
        pack.close()
    sizes = [epochs.model.num_models for [epochs] in workbench.graphs.kept.values()]
    assert sizes == list(range(2, module.MOST + 2))


def test_where_memory_is_short_a_new_pack_has_it(monkeypatch, tmp_path):
    with_captures(monkeypatch, StandIn())
    workbench = workbench_of(tmp_path)
    pack, _ = trained(workbench, of("sphere", KNOBS), count=4)
    pack.close()
    monkeypatch.setattr(module, "_total_bytes", lambda device: 100)
    monkeypatch.setattr(module, "free_bytes", lambda device: 51)
    Pack(workbench, 0, [Knobs(lr=1e-3)], None)
    assert workbench.graphs.kept
    monkeypatch.setattr(module, "free_bytes", lambda device: 49)
    Pack(workbench, 0, [Knobs(lr=1e-3)], None)
    assert not workbench.graphs.kept


def test_what_runs_out_of_memory_leaves_none_to_graphs(monkeypatch, tmp_path):
    with_captures(monkeypatch, StandIn())
    workbench = workbench_of(tmp_path, epochs=4)
    stages = build(workbench.config, setup_sections(workbench.config, workbench.data, "fp32"))
    run_pack(make_packs(stages, 2)[0], workbench, lambda *_: None)
    assert workbench.graphs.kept

    def too_large(self, epoch, **_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Pack, "enqueue", too_large)
    with pytest.raises(torch.OutOfMemoryError):
        run_pack([dataclasses.replace(stages[0], seed=1)], workbench, lambda *_: None)
    assert not workbench.graphs.kept


class Short(StandIn):
    """Has no memory for a graph while others are kept, as a `KeptGraphs` says; or never."""

    def __init__(self, *, never: bool = False, hidden: bool = False) -> None:
        super().__init__()
        self.never, self.hidden, self.refused = never, hidden, 0
        self.graphs = module.KeptGraphs()

    def __call__(self, step, stream):
        if not self.never and not self.graphs.kept:
            return super().__call__(step, stream)
        self.refused += 1
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
        finally:
            if self.hidden:
                raise RuntimeError("CUDA error: operation failed due to a previous error")


@pytest.mark.parametrize("hidden", [False, True])
def test_a_capture_that_runs_out_of_memory_has_that_of_the_other_graphs(
    monkeypatch, tmp_path, hidden
):
    stand_in = Short(hidden=hidden)
    with_captures(monkeypatch, stand_in)
    workbench = workbench_of(tmp_path)
    stand_in.graphs = workbench.graphs
    before, _ = trained(workbench, of("sphere", KNOBS), count=4)
    before.close()
    assert workbench.graphs.kept
    pack, found = trained(workbench, of("sphere", KNOBS[:1]), count=4)
    assert stand_in.refused == 1 and not workbench.graphs.kept
    assert len(pack.captured.graphs) == 2 and not pack.captured.failed
    assert_same(found, trained(workbench_of(tmp_path), of("sphere", KNOBS[:1]), count=4)[1])


def test_it_tries_once_more_and_then_goes_on_without(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(captured_module, "_said", set())
    with_captures(monkeypatch, StandIn())
    workbench = workbench_of(tmp_path)
    before, _ = trained(workbench, of("sphere", KNOBS), count=4)
    before.close()
    stand_in = Short(never=True)
    with_captures(monkeypatch, stand_in)
    pack, found = trained(workbench, of("sphere", KNOBS[:1]), count=4)
    assert stand_in.refused == 2 and pack.captured.failed and not pack.is_ahead
    assert_same(found, trained(workbench_of(tmp_path), of("sphere", KNOBS[:1]), count=4)[1])
    # With nothing to be freed there is no second time.
    stand_in.refused = 0
    trained(workbench, of("sphere", KNOBS[:1]), count=4)
    assert stand_in.refused == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("CUDA graphs: CUDA out of memory. Tried to allocate 2.00 MiB")


def test_what_is_cleared_is_gone(monkeypatch, tmp_path):
    """Without a collector of cycles: memory is free at once."""
    with_captures(monkeypatch, lambda step, stream: lambda: None)
    workbench = workbench_of(tmp_path)
    pack, _ = trained(workbench, of("sphere", KNOBS), count=4)
    held = [weakref.ref(pack.captured), weakref.ref(pack.model)]
    pack.close()
    del pack, _
    gc.disable()
    try:
        assert all(one() is not None for one in held)
        assert workbench.graphs.clear(CPU)
        assert [one() for one in held] == [None, None]
    finally:
        gc.enable()


def test_on_a_device_the_decay_of_all_models_lies_beside_their_rates(monkeypatch):
    made = []
    monkeypatch.setattr(
        fused_module, "FusedSGD", lambda named, **options: made.append(options["weight_decay"])
    )
    for device in ("cpu", "meta"):
        named = [("weight", torch.zeros(2, 3, device=device))]
        fused_module.sgd(SGD(weight_decay=0.1), Trained(named, [], 2), [Knobs(lr=1e-3)] * 2)
    number, vector = made
    assert number == 0.1 and vector.shape == (2,) and vector.device.type == "meta"
