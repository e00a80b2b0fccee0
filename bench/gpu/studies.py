"""Whole epochs and grids: equal results on CPU and GPU, bitwise resume, and the published study."""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import torch

from fasttrain.execution.packing import make_packs
from fasttrain.plan.config import Config, GridConfig, RunOptions, TrainingConfig
from fasttrain.plan.stages import setup_sections
from fasttrain.plan.trees import build
from fasttrain.settings.data.named import Named
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.kinds import ConvNet
from fasttrain.settings.optimizers.kinds import SGD, Adam, Sphere
from fasttrain.training.pack import Pack
from fasttrain.training.run_pack import run_pack
from fasttrain.training.streams import SideBySide
from fasttrain.training.workbench import Workbench, open_workbench

from .machine import Size, wait
from .steps import workbench_of

SETTINGS: dict[str, tuple[Sphere | SGD | Adam, float, str]] = {
    "sphere": (Sphere(), 0.0, "none"),
    "noise": (Sphere(), 0.1, "none"),
    "gradient noise": (SGD(gradient_noise=0.01), 0.0, "none"),
    "Adam": (Adam(weight_decay=0.1), 0.0, "none"),
    "RandAugment": (Sphere(), 0.0, "torchvision"),
}
"""optimiser, noise, and what becomes of the images"""
PUBLISHED_EPOCHS = 32_500
"""of ResNet-18 on CIFAR-10, in the grid of one published figure"""


def grids(size: Size, device: torch.device, folder: Path) -> dict[str, Any]:
    """A small PLR x FLR grid on digits: final test accuracies from both devices, in fp32."""
    epochs, count = (1, 2) if size.tiny else (10, 4)
    config = Config(
        data=Named(kind="digits", n_train=320 if size.tiny else None, n_test=100),
        network=ConvNet(width=4 if size.tiny else 8, radius=12.0),
        training=TrainingConfig(epochs=epochs, finetune_epochs=epochs, batch_size=64),
        grid=GridConfig(plr=(1e-3, 3e-3, 1e-2, 1e-1)[:count], flr=(1e-3, 5e-3)[:count], k=()),
    )
    found, times = {}, {}
    for where in (torch.device("cpu"), device):
        store = folder / f"grid-{where.type}-{time.time_ns()}"
        workbench = open_workbench(config, RunOptions(), store, where, "fp32", {})
        started = time.perf_counter()
        found[where.type], times[f"{where.type} s"] = _accuracies(workbench), 0.0
        times[f"{where.type} s"] = time.perf_counter() - started
    mine, other = found["cpu"], found[device.type]
    rows = [{"stage": k, "cpu": mine[k], device.type: other[k]} for k in mine]
    # Trajectories part by rounding: a stage may differ by chance, the mean of all may not.
    gap = sum(other[k] - mine[k] for k in mine) / len(mine)
    worst = max(abs(other[k] - mine[k]) for k in mine)
    return {"mean difference": gap, "largest difference": worst, **times, "stages": rows}


def _accuracies(workbench: Workbench) -> dict[str, float]:
    stages = build(workbench.config, setup_sections(workbench.config, workbench.data, "fp32"))
    last: dict[str, dict[str, float]] = {}
    for pack in make_packs(stages, 8):
        run_pack(pack, workbench, lambda stage, _, row: last.__setitem__(stage.id, row))
    names = {s.id: f"{s.lr:g}" + (f" after {s.parent.lr:g}" if s.parent else "") for s in stages}
    return {names[stage]: row["test_accuracy"] for stage, row in last.items()}


def resume(size: Size, device: torch.device, folder: Path) -> dict[str, Any]:
    """Whether two epochs, and one and one again from its state, end in the same bits."""
    workbench = workbench_of("ConvNet c=8", size, device, folder)
    knobs = [Knobs(lr=1e-3), Knobs(lr=3e-3)]
    whole = Pack(workbench, 0, knobs, None)
    first = whole.train(0, tested=False)
    end = whole.train(1, tested=True)
    again = Pack(workbench, 0, knobs, first.states).train(1, tested=True)
    pairs = itertools.chain.from_iterable(
        ((a[name], b[name]) for name in a) for a, b in zip(end.states, again.states, strict=True)
    )
    differing = sum(not torch.equal(a, b) for a, b in pairs)
    return {
        "tensors that differ": differing,
        "scores equal": bool((end.scores == again.scores).all()),
    }


def kept_graphs(size: Size, device: torch.device, folder: Path) -> dict[str, Any]:
    """Whether a pack with the graphs of another one ends in the bits of a fresh one; seconds."""
    first, second = [Knobs(lr=1e-3), Knobs(lr=3e-3)], [Knobs(lr=1e-2), Knobs(lr=1e-4)]
    ends, found = [], dict[str, Any]()
    for name, before in (("new", []), ("kept", first)):
        workbench = workbench_of("ConvNet c=8", size, device, folder)
        if before:
            pack = Pack(workbench, 1, before, None)
            for number in range(4):
                pack.train(number, tested=False)
            pack.close()
        wait(device)
        started = time.perf_counter()
        pack = Pack(workbench, 0, second, None)
        found[f"{name}: has graphs"] = pack.captured is not None and bool(pack.captured.graphs)
        pack.train(0, tested=False)
        found[f"s of a first epoch, {name} graphs"] = time.perf_counter() - started
        ends.append(pack.train(1, tested=True).states)
    pairs = itertools.chain.from_iterable(
        ((a[name], b[name]) for name in a) for a, b in zip(*ends, strict=True)
    )
    return found | {"tensors that differ": sum(not torch.equal(a, b) for a, b in pairs)}


def one_by_one(size: Size, device: torch.device, folder: Path) -> dict[str, Any]:
    """Whether graphs end in the bits of steps that are launched one by one: tensors that differ."""
    found = {}
    for name, (optimizer, noise, rand) in SETTINGS.items():
        workbench = workbench_of("digits", size, device, folder)
        config = workbench.config
        data = dataclasses.replace(config.data, rand_augment=rand)
        form = "scale-invariant" if isinstance(optimizer, Sphere) else "practical"
        network = ConvNet(width=4, radius=5.0, form=form)
        config = dataclasses.replace(config, data=data, network=network, optimizer=optimizer)
        own = open_workbench(config, RunOptions(), folder / "store", device, "bf16", {})
        knobs, ends = [Knobs(lr=1e-3, noise=noise), Knobs(lr=3e-3, noise=2 * noise)], []
        for graphs in (True, False):
            pack = Pack(own, 0, knobs, None)
            if not graphs:
                pack.captured = None
            elif device.type == "cuda" and pack.captured is None:
                found[f"{name}: captured"] = False
            ends.append([pack.train(number, tested=False) for number in range(4)][-1])
            if pack.captured is not None and pack.captured.failed:
                found[f"{name}: captured"] = False
        found[name] = sum(
            not torch.equal(a[key], b[key])
            for a, b in zip(ends[0].states, ends[1].states, strict=True)
            for key in a
        )
    found["streams"] = _streams(size, device, folder)
    return found


def _streams(size: Size, device: torch.device, folder: Path) -> int:
    """Of models on streams the tensors that differ from those of packs of one."""
    workbench = workbench_of("digits", size, device, folder)
    knobs = [Knobs(lr=lr) for lr in (1e-3, 3e-3, 1e-2)]
    together = SideBySide(workbench, 0, knobs, None)
    ends = [together.train(number, tested=False) for number in range(4)][-1]
    differing = 0
    for own, state in zip(knobs, ends.states, strict=True):
        alone = Pack(workbench, 0, [own], None)
        [other] = [alone.train(number, tested=False) for number in range(4)][-1].states
        differing += sum(not torch.equal(state[key], other[key]) for key in state)
    return differing


def epoch(size: Size, device: torch.device, folder: Path) -> dict[str, Any]:
    """One epoch of ResNet-18 c=32 as training runs it, and what the published figure would take."""
    workbench = workbench_of("ResNet-18 c=32", size, device, folder)
    images = len(workbench.data.train_labels)
    found: dict[str, Any] = {"images": images}
    for count in (1,) if size.tiny else (1, 4):
        pack = Pack(workbench, 0, [Knobs(lr=1e-3)] * count, None)
        pack.train(0, tested=True)
        wait(device)
        started = time.perf_counter()
        pack.train(1, tested=False)
        wait(device)
        taken = (time.perf_counter() - started) / count
        hours = taken * 50_000 / images * PUBLISHED_EPOCHS / 3600
        found |= {
            f"s, pack of {count}": taken,
            f"us per image, pack of {count}": taken / images * 1e6,
            f"hours for {PUBLISHED_EPOCHS} epochs of 50,000 images, pack of {count}": hours,
        }
    return found


def checkpoints(size: Size, device: torch.device, folder: Path) -> dict[str, Any]:
    """What a checkpoint in every epoch adds: the weights leave while the next epoch runs."""
    workbench = workbench_of("ConvNet c=32", size, device, folder)
    config = workbench.config
    training = dataclasses.replace(config.training, epochs=3, finetune_epochs=1)
    grid = GridConfig(plr=(1e-3,), flr=(), k=())
    config = dataclasses.replace(config, training=training, grid=grid)
    found = {}
    for name, interval in (("none", 1e9), ("every epoch", 0.0)):
        options = RunOptions(checkpoint_s=interval)
        store = folder / f"checkpoints-{time.time_ns()}"
        own = open_workbench(config, options, store, device, "bf16", {})
        started = time.perf_counter()
        [pack] = make_packs(build(config, setup_sections(config, own.data, "bf16")), 1)
        run_pack(pack, own, lambda *_: None)
        found[f"s with {name}"] = time.perf_counter() - started
    return found
