"""Kinds of nodes of a Ray cluster: what a pack's speed depends on is the same on those of a kind.

The nodes tell it themselves, in tasks that ask Ray for no CPU, so that they are answered on nodes
whose CPUs are all taken: the model of the GPUs, if packs train on those, and of the CPU. How many
cores and how much of a GPU a pack gets is the same everywhere (`Room`). Where there are several
kinds every task is told the nodes that it may run on, by Ray's labels; Ray picks one of them.
"""

import platform
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray  # type: ignore[import-not-found]
import torch
from ray.util.scheduling_strategies import (  # type: ignore[import-not-found]
    NodeAffinitySchedulingStrategy,
)

from ...errors import EnvironmentProblem
from ...machine.text import readable
from ...settings.limits import in_one_line
from .ray_cluster import MOST_SIGNS, Cluster, Node, Room
from .ray_head import QUIET_S
from .ray_worker import ONCE, answer, ask, in_words, versions

if TYPE_CHECKING:
    from ..pack_size import Choice

ANSWER_S = 60.0
"""seconds that nodes have to say their kind before the packs are chosen without them"""
ATTEMPTS = 3
"""times that a node is asked whose processes end before they answer"""


def about_node(uses_gpus: bool) -> str:
    """The kind of the node of this process: in words what decides how fast a pack trains there."""
    found = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    name = found[1] if found else platform.machine()
    cpu = f"{name}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{_gpus()}, {cpu}" if uses_gpus else cpu


def _gpus() -> str:
    """The models of the node's GPUs. This process may use none of them: torch would see none."""
    about = map(_text, sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")))
    models = {m[1] for text in about if (m := re.search(r"^Model:\s*(.+)$", text, re.MULTILINE))}
    if models:
        return " and ".join(sorted(models))
    # Where the driver has no such files, Ray's own word for them.
    labels = ray.get_runtime_context().get_node_labels()
    return labels.get("ray.io/accelerator-type", "GPU")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def places(node: Node, room: Room) -> int:
    """How many packs a node has room for."""
    # A share of a GPU is a fraction that floats do not hold exactly.
    by_cpus = int(node.num_cpus / room.num_cpus + 1e-6)
    return min(by_cpus, int(node.num_gpus / room.num_gpus + 1e-6)) if room.num_gpus else by_cpus


def kinds_of(cluster: Cluster, room: Room) -> dict[str, list[Node]]:
    """The nodes that have room for a pack, by kind; empty where there is but one.

    Raises:
        EnvironmentProblem: a node cannot answer; none does in time; none is left.
    """
    if sum(places(node, room) > 0 for node in cluster.nodes()) < 2:
        return {}
    kinds, until = Kinds(cluster, room), time.monotonic() + ANSWER_S
    kinds.look()
    while kinds.asked and time.monotonic() < until:
        kinds.look(QUIET_S)
        cluster.check(room)
    for node in kinds.asked.values():
        # It counts as alive: Ray may start nothing there, or has not noticed that it is cut off.
        cluster.say(f"{node.host} does not answer for {ANSWER_S:g} s: packs are chosen without it")
    if kinds.asked and not kinds.nodes:
        raise EnvironmentProblem(f"Ray at {cluster.name}: no node answers for {ANSWER_S:g} s")
    return kinds.nodes


def pinned(nodes: Sequence[str]) -> dict[str, Any]:
    """What tells Ray to run a task on one of these nodes; on any if there are none."""
    return {"label_selector": {"ray.io/node-id": f"in({','.join(nodes)})"}} if nodes else {}


class Kinds:
    """Which nodes of a cluster are of which kind."""

    def __init__(self, cluster: Cluster, room: Room) -> None:
        self.cluster = cluster
        self.room = room
        self.names: dict[str, str] = {}
        """the kinds of the nodes that have answered, by id"""
        self.asked: dict[Any, Node] = {}
        """nodes that have not, by the reference to their answer"""
        self.ended: Counter[str] = Counter()
        """times that a process ended instead of answering, by node"""
        self.nodes: dict[str, list[Node]] = {}
        """those that are alive, have room for a pack and have answered, by kind"""

    def look(self, timeout_s: float = 0.0) -> None:
        """Look which nodes there are; ask new ones, and hear in so many seconds those asked.

        Raises:
            EnvironmentProblem: a node has other versions, or cannot answer.
        """
        there = [node for node in self.cluster.nodes() if places(node, self.room)]
        # Of one that was cut off no answer may ever come, and no error.
        alive = {node.id for node in there}
        self.asked = {asked: node for asked, node in self.asked.items() if node.id in alive}
        known = self.names.keys() | {node.id for node in self.asked.values()}
        for node in there:
            if node.id not in known:
                self.asked[self._ask(node)] = node
        if self.asked:
            every = list(self.asked)
            ready, _ = ray.wait(every, num_returns=len(every), timeout=timeout_s)
            for reference in ready:
                self._hear(reference, self.asked.pop(reference))
        self.nodes = {}
        for node in there:
            if node.id in self.names:
                self.nodes.setdefault(self.names[node.id], []).append(node)

    def _ask(self, node: Node) -> Any:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        asking = ray.remote(num_cpus=0, scheduling_strategy=there, **ONCE)(ask)
        return asking.remote(versions(), [ray.put((about_node, (self.room.num_gpus > 0,)))])

    def _hear(self, reference: Any, node: Node) -> None:
        try:
            name = answer(reference)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            # One that was lost is not among those there the next time; any other is asked again.
            self.ended[node.id] += 1
            if self.ended[node.id] == ATTEMPTS:
                raise EnvironmentProblem(f"node {node.host}: {in_words(error)}") from None
        else:
            self.names[node.id] = in_one_line(readable(str(name)))[:MOST_SIGNS]


class Pools:
    """The nodes for the packs of every kind that was measured.

    One of another kind, which has joined since, is for those of the smallest packs.
    """

    def __init__(self, cluster: Cluster, room: Room, choices: Mapping[str, "Choice"]) -> None:
        self.cluster = cluster
        self.room = room
        self.kinds = Kinds(cluster, room)
        self.choices = choices
        self.looked_s = 0.0
        self.smallest = min(choices, key=lambda kind: choices[kind].size)
        self.nodes: dict[str, list[Node]] = {kind: [] for kind in choices}

    def _look(self, timeout_s: float = 0.0) -> bool:
        """Look which nodes there are, as `Kinds`; returns whether there are new ones."""
        self.looked_s = time.monotonic()
        self.kinds.look(timeout_s)
        before, self.nodes = self.nodes, {kind: [] for kind in self.choices}
        for name, nodes in self.kinds.nodes.items():
            if name not in self.choices:
                size = self.choices[self.smallest].size
                self.cluster.say(
                    f"{nodes[0].host}: {name}, not measured: packs of up to {size} there"
                )
            self.nodes[name if name in self.choices else self.smallest] += nodes
        for kind, nodes in before.items():
            if nodes and not self.nodes[kind]:
                self.cluster.say(
                    f"no node is left of {kind}: its packs go to the others, as they are"
                )
        return bool(_ids(self.nodes) - _ids(before))

    def joined(self, every_s: float) -> bool:
        """Whether there are new nodes; looks again after so many seconds."""
        return time.monotonic() > self.looked_s + every_s and self._look()

    def free(self, running: Mapping[str, int]) -> list[str]:
        """The kinds of the slots that are free now, in the order of the choices.

        Args:
            running: tasks under way, by kind.

        Raises:
            EnvironmentProblem: no node is left, and none under way.
        """
        self._look()
        while not any(self.nodes.values()) and not any(running.values()):
            self.cluster.check(self.room)
            self._look(QUIET_S)
        found = []
        for kind, nodes in self.nodes.items():
            slots = sum(places(node, self.room) for node in nodes)
            found += [kind] * (slots - running.get(kind, 0))
        return found[: max(0, self.room.processes - sum(running.values()))]

    def where(self, kind: str) -> dict[str, Any]:
        """What tells Ray where a task for a kind is to run."""
        return pinned([node.id for node in self.nodes[kind]])


def _ids(nodes: Mapping[str, Sequence[Node]]) -> set[str]:
    return {node.id for of_kind in nodes.values() for node in of_kind}
