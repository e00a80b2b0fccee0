"""The parts of the kit by name, in the order in which they run; each in a process of its own."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fasttrain.machine.precision import set_exact_arithmetic

from . import kernels, machine, norm, steps, studies, suite
from .machine import Size
from .table import measured

Part = Callable[[Size, torch.device, Path, dict[str, Any]], Any]
"""what it finds, of the size, the device, a folder for files, and what earlier parts have found"""


def _table(name: str, rows: Callable[[Size, torch.device, Path, dict[str, float]], Any]) -> Part:
    """A part of rows, of the size, the device, a folder for files, and the ceilings."""

    def part(size: Size, device: torch.device, folder: Path, before: dict[str, Any]) -> Any:
        made = rows(size, device, folder, before.get("ceilings") or {})
        return measured(made, size, device, machine.kept(folder, name), before.get(name) or ())

    return part


TABLES: dict[str, Part] = {
    name: _table(name, rows)
    for name, rows in {
        **{
            f"steps of {name}": functools.partial(steps.training_steps, name)
            for name in steps.NETWORKS
        },
        "optimizer steps": lambda size, device, folder, _: kernels.optimizer_steps(size, device),
        "augmentation": lambda size, device, folder, _: kernels.augmentation(size, device),
        "losses": lambda size, device, folder, _: kernels.losses(size, device),
        "normalisation": lambda size, device, folder, ceilings: norm.normalisation(
            size, device, ceilings
        ),
        "convolutions": lambda size, device, folder, _: kernels.convolutions(size, device),
    }.items()
}
"""parts that go on row by row"""
PARTS: dict[str, Part] = {
    "environment": lambda size, device, folder, before: machine.environment(device),
    "ceilings": lambda size, device, folder, before: machine.ceilings(size, device),
    **{f"steps of {name}": TABLES[f"steps of {name}"] for name in steps.NETWORKS},
    "step by kernel": lambda size, device, folder, before: steps.by_kernel(
        size, device, folder, before["ceilings"]
    ),
    "epoch": lambda size, device, folder, before: studies.epoch(size, device, folder),
    "grids": lambda size, device, folder, before: studies.grids(size, device, folder),
    "resume": lambda size, device, folder, before: studies.resume(size, device, folder),
    "kept graphs": lambda size, device, folder, before: studies.kept_graphs(size, device, folder),
    "one by one": lambda size, device, folder, before: studies.one_by_one(size, device, folder),
    "checkpoints": lambda size, device, folder, before: studies.checkpoints(size, device, folder),
    "optimizer steps": TABLES["optimizer steps"],
    "augmentation": TABLES["augmentation"],
    "losses": TABLES["losses"],
    "normalisation": TABLES["normalisation"],
    "convolutions": TABLES["convolutions"],
    "suite": lambda size, device, folder, before: suite.suite(size, device, folder),
}
NEED_CEILINGS = {
    *(f"steps of {name}" for name in steps.NETWORKS),
    "step by kernel",
    "normalisation",
}
"""parts that compare with what the device can do at most"""
LIMITS: dict[str, float] = {
    "environment": 15,
    "ceilings": 15,
    **{f"steps of {name}": 40 for name in steps.NETWORKS},
    "step by kernel": 40,
    "epoch": 30,
    "grids": 30,
    "resume": 15,
    "kept graphs": 15,
    "one by one": 25,
    "checkpoints": 15,
    "optimizer steps": 15,
    "augmentation": 10,
    "losses": 10,
    "normalisation": 15,
    "convolutions": 10,
    "suite": 80,
}
"""seconds of every part, about 8 of which are those of a process that begins; 540 together"""


def carry_out(
    name: str, size: Size, device: torch.device, folder: Path, before: dict[str, Any]
) -> Any:
    """What a part finds, in this process."""
    set_exact_arithmetic()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    return PARTS[name](size, device, folder, before)
