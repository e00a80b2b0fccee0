"""How processes share this machine, or a cluster; and what is found where they train."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..plan.config import RunOptions
from ..training.workbench import Workbench

# Imported where it is used: it imports Ray.
if TYPE_CHECKING:
    from .engines.ray_cluster import Room


class Share(NamedTuple):
    """How processes share this machine, or a cluster."""

    processes: int
    num_threads: int
    """of each process"""
    on_device: int
    """processes that share the memory of a device"""
    room: "Room | None" = None
    """of each on a cluster; None on this machine"""


def shared(count: int, workbench: Workbench, options: RunOptions) -> Share:
    """How this machine, or the cluster, is shared for so many things that can be done at once."""
    if options.engine == "ray":
        from .engines.ray_cluster import cluster

        room = cluster(options).room(count, options)
        sharing = options.per_gpu if room.num_gpus else room.processes
        return Share(room.processes, room.num_threads, sharing, room)
    available = torch.get_num_threads()
    devices = devices_of(workbench.device, options.device)
    room = available if workbench.device.type == "cpu" else len(devices)
    processes = options.processes or min(count, room)
    threads = max(1, available // processes)
    return Share(processes, threads, math.ceil(processes / len(devices)))


@contextlib.contextmanager
def threads_of(share: Share) -> Iterator[None]:
    """Compute here as each of the processes does."""
    before = torch.get_num_threads()
    torch.set_num_threads(share.num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def found_by(
    function: Callable[..., Any],
    workbench: Workbench,
    options: RunOptions,
    share: Share,
    *arguments: Any,
) -> Any:
    """What a function finds of the workbench as packs train in it: here, or on a cluster's node."""
    if share.room is not None:
        from .engines.ray_engine import ask_workbench

        return ask_workbench(function, workbench, options, {"": share.room}, *arguments)[""]
    with threads_of(share):
        return function(workbench, *arguments)


def devices_of(device: torch.device, name: str) -> list[torch.device]:
    """The devices that a name allows: every GPU, unless one was named, or the CPU."""
    if device.type == "cuda" and name in ("auto", "cuda"):
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [device]
