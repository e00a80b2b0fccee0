"""What one process measures: a grid on one side, or where a pack's time goes.

What is timed begins after the imports, with the images in memory and, on both sides, one epoch
behind it; it ends with the last cell on disk.
"""

import time
from dataclasses import asdict
from pathlib import Path

import torch

from fasttrain.machine.precision import device_name
from fasttrain.plan.config import Config, RunOptions
from fasttrain.training.loading import configured_images

from .cases import Cell
from .ours import CPU, OurSweep, run_packs
from .profiling import profile


def result(
    seconds: float, folder: Path, before: int, cells: list[Cell], how: str
) -> dict[str, object]:
    """What a side reports."""
    written = folder_bytes(folder) - before
    return {"seconds": seconds, "bytes": written, "cells": cells, "how": how}


def published(config: Config, options: RunOptions, seed: int, folder: Path) -> dict[str, object]:
    """The grid by the published loop."""
    # Here, so that torchvision does not count as ours.
    from .published import PublishedLoop

    data = configured_images(config, options.data_root)
    loop = PublishedLoop(config, data, folder, seed)
    loop.train(loop.new_model(), config.grid.plr[0], 1, "start")
    before, loop.start_s = folder_bytes(folder), 0.0
    started = time.perf_counter()
    cells = loop.run()
    seconds = time.perf_counter() - started
    how = (
        f"{loop.num_workers} loader workers, {device_name(CPU)},"
        f" {torch.get_num_threads()} threads, fp32;"
        f" {loop.start_s:.1f} of {seconds:.1f} s pass until the first batches of epochs and tests"
    )
    return result(seconds, folder, before, cells, how)


def ours(config: Config, options: RunOptions, seed: int, folder: Path) -> dict[str, object]:
    """The grid by fasttrain's sweep."""
    sweep = OurSweep(config, options, folder / "store", seed)
    with sweep.execution.engine(sweep.workbench, options) as engine:
        run_packs(sweep.start_packs(), sweep.workbench.store, engine)
        before = folder_bytes(folder)
        started = time.perf_counter()
        run_packs(sweep.execution.packs, sweep.workbench.store, engine)
        seconds = time.perf_counter() - started
    how = f"{sweep.execution.explain()}; {sweep.precision}"
    return result(seconds, folder, before, sweep.cells(), how)


def profiled(config: Config, options: RunOptions, seed: int, folder: Path) -> dict[str, object]:
    """Where the time of a pack goes."""
    sweep = OurSweep(config, options, folder / "store", seed)
    return asdict(profile(sweep, folder / "profile"))


SIDES = {"ours": ours, "published": published, "profile": profiled}


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
