"""A real cluster of raylets on this machine, for what is tested on Ray. Imported without it."""

import contextlib
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from .programs import open_files, parents

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""addresses of it, as `listening` gives them"""


@contextlib.contextmanager
def connected(module: ModuleType, *nodes: dict[str, Any]) -> Iterator[Any]:
    """A head without CPUs, and nodes; this process is connected to it.

    Args:
        module: of tests, whose tasks are pickled with its code: nodes cannot import it.
        nodes: what `Cluster.add_node` takes for each; two of one CPU if none are given.
    """
    import cloudpickle
    import ray  # type: ignore[import-not-found]
    from ray.cluster_utils import Cluster  # type: ignore[import-not-found]

    cloudpickle.register_pickle_by_value(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for node in nodes or [{"num_cpus": 1}] * 2:
            started.add_node(**node)
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        ray.init(address=started.address, log_to_driver=False, logging_level="ERROR")
        for number, handler in before.items():
            signal.signal(number, handler)
        try:
            yield started
        finally:
            ray.shutdown()
            started.shutdown()


def descendants(pid: int) -> set[int]:
    """The processes below a process."""
    above = parents()
    found = {pid}
    while more := {child for child, parent in above.items() if parent in found} - found:
        found |= more
    return found - {pid}


def listening(pids: set[int]) -> set[str]:
    """The addresses at which processes listen, as the kernel writes them."""
    sockets = {
        name.removeprefix("socket:[").removesuffix("]") for pid in pids for name in open_files(pid)
    }
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets}
