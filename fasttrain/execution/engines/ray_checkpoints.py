"""What tasks of a Ray cluster get out of the driver's store, and tell: checked on its way there."""

import re
from collections.abc import Iterable
from typing import Any

from ...errors import EnvironmentProblem
from ...machine.files import sha256_hex, write_atomically
from ...store.store import Result, Store
from .tasks import Task

CHECKPOINT_NAME = re.compile(r"[0-9a-f]+-([0-9a-f]{16})\.safetensors")


def save_checkpoint(store: Store, name: str, content: bytes) -> None:
    """Write a checkpoint that a task has told of, as it has.

    Raises:
        EnvironmentProblem: the name is none, or not that of the content; it cannot be written.
    """
    found = CHECKPOINT_NAME.fullmatch(name)
    if found is None or found[1] != sha256_hex(content)[:16]:
        raise EnvironmentProblem(f"a task told of a checkpoint {name!r}, which is not what it says")
    folder = store.checkpoints.folder
    folder.mkdir(exist_ok=True)
    write_atomically(folder / name, content)
    store.checkpoints.tidy(keep=folder / name)


def of_task(task: Task, told: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What is told of results, by id, if they are those of the task."""
    found = dict(told)
    if strange := found.keys() - task.results:
        raise EnvironmentProblem(f"a task told of results that are not its own: {sorted(strange)}")
    return found


def checked(task: Task, result: Result) -> Result:
    """A result whose files are those that the task makes."""
    if strange := result.files.keys() - task.names:
        raise EnvironmentProblem(f"a task told of files that it does not make: {sorted(strange)}")
    return result


def read_for(task: Task, store: Store) -> dict[str, bytes]:
    """The files of a store that a task starts from, by path in it."""
    return {str(path.relative_to(store.path)): path.read_bytes() for path in task.reads(store)}
