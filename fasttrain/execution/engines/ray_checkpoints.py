"""Checkpoints as tasks of a Ray cluster tell them, on their way into the driver's store."""

import re

from ...errors import EnvironmentProblem
from ...machine.files import sha256_hex, write_atomically
from ...store.store import Store

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
