"""A Ray cluster: connected to, or started on this machine and stopped again; and what it has.

Ray is one for a whole process, and so is what is kept here.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import EnvironmentProblem
from ...machine import interrupts
from ...machine.processes import usable_cpus
from ...machine.text import readable
from ...plan.config import RunOptions
from ...settings.limits import in_one_line
from .ray_head import KEEPALIVE, Head

REACHED_S = 5.0
"""seconds to reach an address"""
ENVIRONMENT = {"RAY_SCHEDULER_EVENTS": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""no lines of what waits for resources, no statistics to Ray's makers"""
MOST_SIGNS = 1000
"""of a line that a node tells"""
OF_THIS_MACHINE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""as where Ray is of one machine alone: its services listen on 127.0.0.1, and want a token"""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    host: str
    address: str
    num_cpus: float
    num_gpus: float
    id: str = ""
    """Ray's"""


@dataclass(frozen=True)
class Room:
    """What packs get of the cluster."""

    processes: int
    """that train at once"""
    num_threads: int
    num_cpus: float
    """of each"""
    num_gpus: float
    """of each"""
    nodes: tuple[str, ...] = ()  # ids of those that they are to be on; any if there are none


class Cluster:
    """A cluster that this process is connected to.

    Args:
        name: what it is called in messages.
        mine: whether this process is to disconnect, and to stop what it started.
        environment: variables that were set for it, to be taken back.
    """

    def __init__(self, name: str, mine: bool, environment: Sequence[str] = ()) -> None:
        self.name = name
        self.mine = mine
        self.environment = environment
        self.kept: dict[str, Any] = {}
        """what is in its object store for all tasks, by digest"""
        self.said: set[str] = set()
        self.head = Head(name)

    def say(self, note: Any) -> None:
        """Tell the user something of its nodes, once, in a line above a live table.

        Raises:
            EnvironmentProblem: it is no text. Nodes can send anything.
        """
        if not isinstance(note, str):
            raise EnvironmentProblem(f"a node told of a {type(note).__name__}, not of a text")
        line = in_one_line(readable(note))[:MOST_SIGNS]
        if line not in self.said:
            print(line, file=sys.stderr)
        self.said.add(line)

    def nodes(self) -> list[Node]:
        """Its machines that are alive.

        Raises:
            EnvironmentProblem: its head does not answer.
        """
        return [
            Node(
                node["NodeManagerHostname"],
                node["NodeManagerAddress"],
                node["Resources"].get("CPU", 0),
                node["Resources"].get("GPU", 0),
                node["NodeID"],
            )
            for node in self.head.nodes()
            if node["Alive"]
        ]

    def device(self, options: RunOptions) -> str:
        """The kind of device that packs train on: of `auto`, GPUs if there are any."""
        if options.device != "auto":
            return options.device
        return "cuda" if any(node.num_gpus for node in self.nodes()) else "cpu"

    def room(self, count: int, options: RunOptions) -> Room:
        """How it is shared for so many packs that can train at once.

        Raises:
            EnvironmentProblem: it does not have what is asked for.
        """
        nodes = self.nodes()
        if self.device(options) == "cuda":
            slots, threads, cpus = _on_gpus(nodes, options.per_gpu)
            what, gpus = f"{options.per_gpu} a GPU", 1 / options.per_gpu
        else:
            slots, threads = _on_cpus(nodes, options.processes or count)
            what, cpus, gpus = "one a CPU", float(threads), 0.0
        if slots == 0:
            missing = "GPU with a CPU beside it" if gpus else "CPU"
            raise EnvironmentProblem(f"{self.about(nodes)}: packs need a {missing}")
        if (options.processes or 1) > slots:
            raise EnvironmentProblem(
                f"--processes {options.processes}: {self.about(nodes)}: at most {slots} packs train"
                f" there at once, {what}"
            )
        return Room(min(options.processes or count, slots), threads, cpus, gpus)

    def check(self, room: Room) -> None:
        """Raise where no node is left that could run a pack.

        Raises:
            EnvironmentProblem: the message says what there is.
        """
        nodes = self.nodes()
        if not any(n.num_cpus >= room.num_cpus and n.num_gpus >= room.num_gpus for n in nodes):
            raise EnvironmentProblem(
                f"{self.about(nodes)}: none is left that has the {room.num_cpus:g} CPUs and"
                f" {room.num_gpus:g} GPUs of a pack; run the same command again when one is back"
            )

    def about(self, nodes: Sequence[Node]) -> str:
        """The cluster in words."""
        cpus, gpus = sum(node.num_cpus for node in nodes), sum(node.num_gpus for node in nodes)
        return f"Ray at {self.name}: nodes {len(nodes)}, CPUs {cpus:g}, GPUs {gpus:g}"

    def explain(self) -> str:
        """The cluster in a line, and in another whether it is open to the network."""
        nodes = self.nodes()
        lines = [self.about(nodes)]
        if any(not node.address.startswith("127.") for node in nodes):
            lines.append(
                f"warning: Ray's services listen on the network, at {nodes[0].address}"
                f"{' and others' * (len(nodes) > 1)}: {_protection()}"
            )
        return "\n".join(lines)


def _protection() -> str:
    """What keeps others out of a cluster that is open to the network."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        return "whoever has its token runs programs there; keep it secret"
    return (
        "without a token, whoever reaches them runs programs there; stop it, ray get-auth-token"
        " --generate, and start it again"
    )


def _on_gpus(nodes: Sequence[Node], per_gpu: int) -> tuple[int, int, float]:
    """Packs at once, threads of each, and CPUs of each, so many packs on every GPU."""
    slots = [(node, int(node.num_gpus) * per_gpu) for node in nodes]
    slots = [(node, count) for node, count in slots if count and node.num_cpus]
    cpus = min((node.num_cpus / count for node, count in slots), default=0.0)
    threads = max(1, int(cpus))
    return sum(count for _, count in slots), threads, min(cpus, threads)


def _on_cpus(nodes: Sequence[Node], wanted: int) -> tuple[int, int]:
    """Packs at once, and threads of each: as many as leave room for so many packs, if possible."""
    cpus = [int(node.num_cpus) for node in nodes]
    threads = max(1, min(sum(cpus) // wanted, max(cpus, default=0)))
    while threads > 1 and sum(of // threads for of in cpus) < wanted:
        threads -= 1
    return sum(of // threads for of in cpus), threads


_connected: list[Cluster] = []
"""the cluster that this process is connected to, if it is"""


def cluster(options: RunOptions) -> Cluster:
    """The cluster of the options; connected to, or started, by the first call.

    Raises:
        EnvironmentProblem: it cannot be reached or started; the message says why, within seconds.
    """
    # Read by Ray when it is imported.
    wanted = ENVIRONMENT | ({} if options.address else OF_THIS_MACHINE | KEEPALIVE)
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(new)
    import ray  # type: ignore[import-not-found]

    if _connected and ray.is_initialized():
        return _connected[0]
    if mine := not ray.is_initialized():
        _check_reached(options.address)
        with _signals_kept():
            _connect(options.address)
    else:
        _check_connected(options.address)
    where = (options.address or "this machine") if mine else "the cluster of this program"
    _connected[:] = [Cluster(where, mine, list(new))]
    return _connected[0]


def disconnect() -> None:
    """Leave the cluster, and stop it if it was started here."""
    for left in _connected:
        if left.mine:
            with _signals_kept():
                left.head.leave()
        for name in left.environment:
            os.environ.pop(name, None)
    _connected.clear()


def _check_connected(address: str | None) -> None:
    """Raise where this program is connected to another cluster than the one of an address."""
    import ray  # type: ignore[import-not-found]

    there = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", there):
        raise EnvironmentProblem(
            f"--address {address}: this program is connected to the Ray cluster at {there} already"
        )


def _connect(address: str | None) -> None:
    import ray  # type: ignore[import-not-found]

    given: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        given |= {"address": "local", "num_cpus": usable_cpus(), "include_dashboard": False}
    try:
        ray.init(**given)
    except Exception as error:
        # Of many kinds, by what is wrong: versions, tokens, no node of the cluster on this machine.
        ray.shutdown()
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EnvironmentProblem(f"--address {address}: {line}" if address else line) from None


def _check_reached(address: str | None) -> None:
    """Raise for an address that nothing answers at: Ray itself would try for a minute.

    Raises:
        EnvironmentProblem: nothing does.
    """
    given = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address or ""
    host, _, port = given.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACHED_S).close()
    except OSError as error:
        raise EnvironmentProblem(
            f"--address {address}: no Ray cluster answers at {given}: {error.strerror or error}"
        ) from None


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts a handler of its own in the place of ours."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in interrupts.STOPS} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
