"""The parts of the kit by name, in the order in which they run; each in a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fasttrain.machine.precision import set_exact_arithmetic

from . import kernels, machine, norm, steps, studies
from .machine import Size

ROOT = Path(__file__).parents[2]
SUITE = ("tests/kernels", "tests/data")
"""where tests marked `gpu` are"""
DONE = re.compile(r"(\d+) (passed|failed|skipped|error|deselected)")


def suite(size: Size, device: torch.device) -> dict[str, Any]:
    """The tests that need a GPU; the dry run collects them."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", *SUITE]
    command += ["--collect-only"] if size.tiny else []
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    counts = {what: int(count) for count, what in DONE.findall(lines[-1] if lines else "")}
    return {"exit code": done.returncode, **counts, "last lines": lines[-12:]}


Part = Callable[[Size, torch.device, Path, dict[str, Any]], Any]
"""what it finds, of the size, the device, a folder for files, and what earlier parts have found"""


def _steps(name: str) -> Part:
    def part(size: Size, device: torch.device, folder: Path, before: dict[str, Any]) -> Any:
        return steps.training_steps(name, size, device, folder, before["ceilings"])

    return part


PARTS: dict[str, Part] = {
    "environment": lambda size, device, folder, before: machine.environment(device),
    "ceilings": lambda size, device, folder, before: machine.ceilings(size, device),
    **{f"steps of {name}": _steps(name) for name in steps.NETWORKS},
    "step by kernel": lambda size, device, folder, before: steps.by_kernel(
        size, device, folder, before["ceilings"]
    ),
    "epoch": lambda size, device, folder, before: studies.epoch(size, device, folder),
    "grids": lambda size, device, folder, before: studies.grids(size, device, folder),
    "resume": lambda size, device, folder, before: studies.resume(size, device, folder),
    "kept graphs": lambda size, device, folder, before: studies.kept_graphs(size, device, folder),
    "one by one": lambda size, device, folder, before: studies.one_by_one(size, device, folder),
    "checkpoints": lambda size, device, folder, before: studies.checkpoints(size, device, folder),
    "optimizer steps": lambda size, device, folder, before: kernels.optimizer_steps(size, device),
    "augmentation": lambda size, device, folder, before: kernels.augmentation(size, device),
    "losses": lambda size, device, folder, before: kernels.losses(size, device),
    "normalisation": lambda size, device, folder, before: norm.normalisation(
        size, device, before["ceilings"]
    ),
    "convolutions": lambda size, device, folder, before: kernels.convolutions(size, device),
    "suite": lambda size, device, folder, before: suite(size, device),
}


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
