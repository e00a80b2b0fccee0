"""Checkpoints: where the packs under way stand, written beside the training, no more than needed.

A file holds the stages of one pack that are under way, as tensors named <stage>/<tensor>, among
them a `series` with a row per epoch; its name is <pack>-<digest>.safetensors. A pack goes on from
its own files alone: in another pack, or from another start, its stages would end in other bits.
"""

import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors

from ..errors import EnvironmentProblem
from ..machine.files import (
    open_regular,
    read_regular,
    sha256_hex,
    tensors_to_bytes,
    write_atomically,
)

# Imported where they are used: what reads finished stages does without torch.
if TYPE_CHECKING:
    from torch import Tensor

Content = Callable[[], dict[str, dict[str, "Tensor"]]]
"""Makes the tensors of every stage of a pack, by id, in memory that nothing writes to again; in the
thread that writes them."""


class Checkpoints:
    """The checkpoints of a store.

    Args:
        folder: made when the first is written.
        is_finished: whether a stage, by id, needs its checkpoint no more.
    """

    def __init__(self, folder: Path, is_finished: Callable[[str], bool]) -> None:
        self.folder = folder
        self.is_finished = is_finished

    def save(self, pack: str, content: dict[str, dict[str, "Tensor"]]) -> None:
        """Write where the stages of a pack stand, by id; what they stood at before goes.

        Args:
            pack: names it; no other pack has this name.
        """
        self.folder.mkdir(exist_ok=True)
        named = {f"{s}/{n}": tensor for s, part in content.items() for n, tensor in part.items()}
        data = tensors_to_bytes(named)
        path = self.folder / f"{pack}-{sha256_hex(data)[:16]}.safetensors"
        write_atomically(path, data)
        self.tidy(keep=path)

    def tidy(self, keep: Path | None = None) -> None:
        """Drop checkpoints whose stages are all finished or stand in the one to keep."""
        kept = set() if keep is None else set(_members(keep))
        for path in self.files():
            if path != keep and all(s in kept or self.is_finished(s) for s in _members(path)):
                path.unlink(missing_ok=True)

    def epochs(self, stage: str) -> int:
        """Epochs of the stage that its farthest checkpoint holds, read from the files' headers.

        In one look: a sweep may replace a file at any time.
        """
        return max((_members(path).get(stage, 0) for path in self.files()), default=0)

    def load(self, pack: str, stages: Collection[str]) -> dict[str, dict[str, "Tensor"]]:
        """Where a pack stands: the tensors of every stage under way with one of those given, by id.

        Empty if none of them is.

        Raises:
            EnvironmentProblem: the checkpoint is damaged.
        """
        found: dict[Path, int] = {}
        for path in self.files(pack):
            members = _members(path)
            if not members.keys().isdisjoint(stages):
                found[path] = max(members.values())
        if not found:
            return {}
        path = max(found, key=lambda path: found[path])
        import safetensors.torch

        content: dict[str, dict[str, Tensor]] = {}
        for name, tensor in safetensors.torch.load(checked_checkpoint(path)).items():
            stage, _, own = name.partition("/")
            content.setdefault(stage, {})[own] = tensor
        return content

    def of(self, stages: Collection[str]) -> list[Path]:
        """The checkpoints that hold one of these stages, by id, sorted."""
        return [path for path in self.files() if not _members(path).keys().isdisjoint(stages)]

    def files(self, pack: str = "*") -> list[Path]:
        """The checkpoints that are there, or those of a pack, sorted."""
        return sorted(self.folder.glob(f"{pack}-*.safetensors"))


class CheckpointWriter:
    """Writes where a pack stands every `interval_s` seconds, in a thread. A context manager.

    Leaving it waits for the writing that is under way, and raises what stopped it.
    """

    def __init__(self, checkpoints: Checkpoints, pack: str, interval_s: float) -> None:
        self.checkpoints = checkpoints
        self.pack = pack
        self.interval_s = interval_s
        self.last = time.monotonic()
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.writing: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wait()
        finally:
            self.thread.shutdown()

    def offer(self, content: Content) -> None:
        """Begin to write the content if the interval has passed."""
        if time.monotonic() - self.last >= self.interval_s:
            self._wait()
            self.last = time.monotonic()
            self.writing = self.thread.submit(self._save, content)

    def write(self, content: Content) -> None:
        """Write the content now, and return when it is on disk."""
        self._wait()
        self._save(content)

    def _save(self, content: Content) -> None:
        self.checkpoints.save(self.pack, content())

    def _wait(self) -> None:
        if self.writing is not None:
            # Forgotten only when it has ended: an interruption may come here twice.
            self.writing.result()
            self.writing = None


def checked_checkpoint(path: Path) -> bytes:
    """The content of a checkpoint.

    Raises:
        EnvironmentProblem: it does not match the digest in its name.
    """
    data = read_regular(path, _remedy(path))
    if not path.stem.endswith(f"-{sha256_hex(data)[:16]}"):
        raise EnvironmentProblem(f"{path}: does not match the digest in its name; {_remedy(path)}")
    return data


def _members(checkpoint: Path) -> dict[str, int]:
    """Stages of a checkpoint and their epochs, in the order of the pack, from the file's header."""
    try:
        # The library would wait for a pipe.
        open_regular(checkpoint, _remedy(checkpoint)).close()
        # As torch's, the file would be opened twice: it may go in between.
        with safetensors.safe_open(checkpoint, framework="numpy") as file:
            names = [name for name in file.keys() if name.endswith("/series")]  # noqa: SIM118
            return {name[: -len("/series")]: file.get_slice(name).get_shape()[0] for name in names}
    except FileNotFoundError:
        # Another worker has just finished its stages.
        return {}
    except (safetensors.SafetensorError, IndexError) as error:
        # An empty shape is no series.
        reason = " ".join(str(error).split())
        raise EnvironmentProblem(
            f"{checkpoint}: cannot be read ({reason}); {_remedy(checkpoint)}"
        ) from None


def _remedy(path: Path) -> str:
    return f"delete {path} and run the sweep again"
