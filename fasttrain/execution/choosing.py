"""Choosing how the packs of a plan train, by measurement; on every kind of node of a cluster.

A kind of node has a size of packs of its own, and a way in which their models train together.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from ..plan.config import RunOptions
from ..plan.stages import Stage
from ..training.workbench import Workbench
from .measured import Timing
from .pack_size import Choice, fastest, measure_compiled, measure_ways
from .packing import largest_wave
from .sharing import Share, found_by

WORTH_S = 600.0
"""a plan that takes longer is worth the compilation that shows whether it is faster"""


def choose(
    stages: Sequence[Stage], workbench: Workbench, options: RunOptions, share: Share
) -> tuple[dict[str, Choice], list[str]]:
    """How new packs train on each kind of node, by its name, the fastest kind first; and notes.

    The name is "" where there is one kind alone, as on this machine.
    """
    shares = _by_kind(share, options)
    arguments = largest_wave(stages), share.on_device, options.compile == "on"
    found = _measured(shares, workbench, options, *arguments)
    choices, notes = {}, []
    for kind, timings in found.items():
        choices[kind], note = _choice(timings, stages, workbench, options, shares[kind])
        notes.append(f"{kind}: {note}" if kind and note else note)
    fast_first = sorted(choices, key=lambda kind: choices[kind].model_step_s)
    left, ordered = share.processes, {}
    for kind in fast_first:
        processes = min(left, shares[kind].processes)
        left -= processes
        ordered[kind] = dataclasses.replace(choices[kind], processes=processes)
    return ordered, notes


def _by_kind(share: Share, options: RunOptions) -> dict[str, Share]:
    """How each kind of node is shared, by its name."""
    if share.room is None:
        return {"": share}
    from .engines.ray_cluster import cluster
    from .engines.ray_kinds import kinds_of, places

    kinds = kinds_of(cluster(options), share.room)
    if len(kinds) < 2:
        return {"": share}
    shares = {}
    for kind, nodes in kinds.items():
        room = dataclasses.replace(share.room, nodes=tuple(node.id for node in nodes))
        count = sum(places(node, room) for node in nodes)
        shares[kind] = share._replace(processes=min(count, share.processes), room=room)
    return shares


def _measured(
    shares: Mapping[str, Share], workbench: Workbench, options: RunOptions, *arguments: object
) -> dict[str, list[Timing]]:
    """The timings of packs on each kind of node, on one of its nodes; on all kinds at once."""
    rooms = {kind: share.room for kind, share in shares.items() if share.room is not None}
    if len(rooms) < 2:
        return {
            kind: found_by(measure_ways, workbench, options, share, *arguments)
            for kind, share in shares.items()
        }
    from .engines.ray_engine import ask_workbench

    return ask_workbench(measure_ways, workbench, options, rooms, *arguments)


def _choice(
    timings: list[Timing],
    stages: Sequence[Stage],
    workbench: Workbench,
    options: RunOptions,
    share: Share,
) -> tuple[Choice, str]:
    """The fastest way, compiled or not; and what the user should know of it."""
    where = workbench, options, share
    chosen, note = fastest(timings), ""
    whole_s = _whole_s(stages, timings, share.processes, workbench)
    if options.compile == "auto" and whole_s > WORTH_S and found_by(kernel_of, *where) is None:
        more, note = found_by(measure_compiled, *where, chosen.size, share.on_device)
        timings = timings + more
        chosen = fastest([chosen, *more])
    compiled = options.compile == "on" or chosen.compiled
    return Choice(chosen.size, compiled, chosen.way, timings), note


def kernel_of(workbench: Workbench) -> str | None:
    """The kernel that would take the steps, where a process is asked."""
    return workbench.kernel


def _whole_s(
    stages: Sequence[Stage], timings: Sequence[Timing], processes: int, workbench: Workbench
) -> float:
    """About how long the whole plan takes without compilation, whatever is finished of it."""
    num_epochs = sum(stage.num_epochs for stage in stages)
    return num_epochs * workbench.steps_per_epoch * fastest(timings).model_step_s / processes
