"""A task on a node of a Ray cluster: training in a thread, which tells what becomes of it."""

import contextlib
import ctypes
import platform
import queue
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import EnvironmentProblem
from ...machine.precision import answers, resolve_device
from ...machine.provenance import provenance
from ...machine.threads import check_threads
from ...plan.config import Config, RunOptions
from ...store.checkpoints import Checkpoints
from ...store.schema import STAGES, Shapes
from ...store.store import Result, Store
from ...training.workbench import Workbench, open_workbench
from .local import attempt
from .ray_cluster import Room, cluster
from .ray_data import Images, from_anywhere, images_here, put_images
from .tasks import Task

Message = tuple[Any, ...]
"""what is told, of TOLD, and that"""
HERE, NOTE, REPORT, BEGUN, CHECKPOINT, FINISHED, ENDED, PROBLEM = TOLD = (
    "here",
    "note",
    "report",
    "begun",
    "checkpoint",
    "finished",
    "ended",
    "problem",
)


@dataclass(frozen=True)
class Setting:
    """What all tasks of a driver share; it travels to a node once."""

    config: Config
    options: RunOptions
    images: Images
    device: str
    """its kind: of GPUs a task sees its own alone"""
    precision: str
    provenance: Mapping[str, str | None]
    compiled: bool
    num_threads: int
    store: Path
    """the driver's, for messages"""
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    """its own: a process that has served another one sets itself up anew"""


def setting_of(workbench: Workbench, options: RunOptions, room: Room) -> Setting:
    """What a node needs to build a workbench like that of this process."""
    return Setting(
        *from_anywhere(workbench.config, options),
        put_images(workbench.data, cluster(options)),
        "cuda" if room.num_gpus else "cpu",
        workbench.precision,
        workbench.provenance,
        workbench.compiled,
        room.num_threads,
        Path(workbench.store.path),
    )


class Trial:
    """A task, and what it tells."""

    def __init__(self, task: Task, setting: Setting) -> None:
        self.task = task
        self.setting = setting
        self.told: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.stopping = False
        self.is_broken = False
        """whether this process can use its device no more"""

    def run(self, files: Mapping[str, bytes]) -> None:
        """Carry it out, in a store that holds these files; a thread's whole life."""
        with contextlib.suppress(KeyboardInterrupt):
            try:
                with tempfile.TemporaryDirectory(prefix="fasttrain-") as folder:
                    error = self._train(Path(folder), files)
            except Exception as problem:
                self.told.put((PROBLEM, f"node {platform.node()}: {problem}"))
            else:
                self.told.put((ENDED, error))

    def _train(self, root: Path, files: Mapping[str, bytes]) -> str | None:
        """Returns the traceback of an error in it."""
        for name, content in files.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(content)
        workbench = workbench_here(self.setting, root, self.told.put)
        store = _ToldStore(root, self.setting.options.stop_at_chance, self.told.put)
        for drawn in workbench.draws.values():
            drawn.store = store
            # What they start from may have been replaced since.
            drawn.final_states.clear()

        def said(text: str) -> str:
            # The driver's files are meant.
            return text.replace(str(root), str(self.setting.store))

        try:
            error = attempt(self.task, workbench, self._report)
        except (EnvironmentProblem, OSError) as problem:
            raise EnvironmentProblem(said(str(problem))) from None
        if error is None:
            return None
        self.is_broken = not answers(workbench.device)
        return said(error)

    def _report(self, *message: Any) -> None:
        check_threads(self.setting.num_threads)
        self.told.put((REPORT, message))
        if self.stopping:
            raise KeyboardInterrupt

    def stop(self, thread: threading.Thread) -> None:
        """Raise KeyboardInterrupt in the thread, as a signal does in a main thread.

        Should it be dropped where no exception can pass, the next report raises it again.
        """
        raised = ctypes.py_object(KeyboardInterrupt)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), raised)
        self.stopping = True


_opened: dict[str, Workbench] = {}
"""the workbench of this process"""


def workbench_here(
    setting: Setting, store: Path, tell: Callable[[Message], None] = lambda _: None
) -> Workbench:
    """The workbench of a setting in this process, set up for the calling thread."""
    root = setting.options.data_root
    data, note = images_here(setting.images, setting.config, root)
    if note:
        tell((NOTE, note))
    torch.set_num_threads(setting.num_threads)
    device = resolve_device(setting.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if setting.name not in _opened:
        here = provenance(device, setting.precision, "")
        own = {name: here[name] for name in ("torch", "python", "platform", "device")}
        _opened.clear()
        _opened[setting.name] = open_workbench(
            setting.config,
            setting.options,
            store,
            device,
            setting.precision,
            {**setting.provenance, **own},
            setting.compiled,
            data,
        )
    return _opened[setting.name]


class _ToldCheckpoints(Checkpoints):
    """Checkpoints of a task: what is written is told."""

    tell: Callable[[Message], None]

    def save(self, pack: str, content: dict[str, dict[str, Tensor]]) -> None:
        """Write where the stages of a pack stand, and tell the file."""
        before = set(self.files())
        super().save(pack, content)
        for path in set(self.files()) - before:
            self.tell((CHECKPOINT, path.name, path.read_bytes()))


class _ToldStore(Store):
    """The store of a task, or its analyses: what begins and finishes is told."""

    def __init__(
        self,
        path: Path,
        accept_stopped: bool,
        tell: Callable[[Message], None],
        shapes: Shapes = STAGES,
    ) -> None:
        super().__init__(path, accept_stopped=accept_stopped, shapes=shapes)
        self.tell = tell
        self.checkpoints = _ToldCheckpoints(self.checkpoints.folder, self.is_finished)
        self.checkpoints.tell = tell

    @property
    def analyses(self) -> Store:
        """Analyses of the stages."""
        analyses = super().analyses
        return _ToldStore(analyses.path, True, self.tell, analyses.shapes)

    def begin_all(self, descriptions: Mapping[str, dict[str, Any]]) -> None:
        """Say what stages are, and tell it."""
        super().begin_all(descriptions)
        self.tell((BEGUN, dict(descriptions)))

    def finish_all(self, results: Iterable[Result]) -> None:
        """Write the results of stages, and tell them."""
        results = list(results)
        super().finish_all(results)
        self.tell((FINISHED, [tuple(result) for result in results]))
