"""What a driver leaves for others to read while it works: the plan of its store, and where it is.

`status` reads it. A report costs a small file and no flush to disk, at most once a second, in the
driver alone: workers know nothing of it. What cannot be written is left out, since no result
depends on it; only the plan is written like the store's other files.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from ..plan.shards import Shard
from ..plan.stages import Stage
from ..store.status import FORMAT, PROGRESS, Planned, Progress, merged, read_plan, write_plan
from ..store.tables import Finished
from .progress import NodeView

INTERVAL_S = 1.0
"""seconds between two reports"""
_OWN = ("plr", "flr", "k", "seed", "epochs", "inherit")
"""of a stage.json what a plan repeats"""


class Journal:
    """The plan and the reports of one driver, which holds the store's lock. A context manager.

    Args:
        folder: of the store.
        phase: what it does, until it counts stages.
        counts_stages: whether the views that it reports of do.
    """

    def __init__(
        self, folder: Path, command: str, phase: str, *, counts_stages: bool = True
    ) -> None:
        self.folder = folder
        self.command = command
        self.phase = phase
        self.counts_stages = counts_stages
        self.processes = 1
        self.more = False
        self.due = 0.0

    def __enter__(self) -> "Journal":
        self._report(None)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            (self.folder / PROGRESS).unlink(missing_ok=True)

    def plan(
        self,
        stages: Sequence[Stage],
        *,
        accept_stopped: bool,
        more: bool = False,
        shard: Shard | None = None,
    ) -> None:
        """Record what this driver was asked for.

        Args:
            shard: the part of a study that the stages are; None if they are all of it.
            more: whether further stages may follow.

        Raises:
            EnvironmentProblem: it cannot be written.
        """
        self.more = more
        part = None if shard is None else str(shard)
        new = Planned(self.command, str(Path.cwd()), _rows(stages), accept_stopped, more, part)
        before = read_plan(self.folder)
        after = merged(before, new)
        if after != before:
            write_plan(self.folder, after)

    def report(self, view: NodeView, at_once: bool = False) -> None:
        """Say where the driver stands, unless it has just done so and this can wait."""
        if at_once or time.monotonic() >= self.due:
            self._report(view)

    def _report(self, view: NodeView | None) -> None:
        self.due = time.monotonic() + INTERVAL_S
        progress = Progress(
            format=FORMAT,
            command=self.command,
            pid=os.getpid(),
            host=socket.gethostname(),
            written=time.time(),
            phase=self.phase,
            counts=view is not None and self.counts_stages,
            processes=self.processes,
            more=self.more,
            left_s=None if view is None else view.left_s(),
            packs=[] if view is None else view.packs(),
        )
        # Beside its place first: who reads it finds it whole.
        temporary = self.folder / f".{PROGRESS}.{os.getpid()}.tmp"
        try:
            temporary.write_text(json.dumps(vars(progress)))
            temporary.replace(self.folder / PROGRESS)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _rows(stages: Sequence[Stage]) -> dict[str, dict[str, object]]:
    """What a plan says of stages, by id."""
    rows, setups = {}, dict[tuple[object, ...], str]()
    for stage in stages:
        planned = Finished(stage.id, stage.about({}), {})
        # Thousands of stages have the same one.
        shared = stage.setup, stage.experiment, *planned.root_length().values()
        if shared not in setups:
            setups[shared] = Finished(stage.id, stage.description(), {}).setup
        own = {name: planned.about[name] for name in _OWN}
        rows[stage.id] = {**own, "kind": planned.kind, "setup": setups[shared]}
    return rows
