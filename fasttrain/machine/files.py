"""Files that are whole or not there: atomic writes, digests, the formats that the store uses."""

import contextlib
import hashlib
import io
import json
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EnvironmentProblem

FLUSHES = 16
"""flushes to disk that wait at the same time: a file system writes one journal for all of them"""

# Imported where they are used: a command checks its paths before it waits for torch.
if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a kill or a power cut leaves the old content or the new.

    Raises:
        EnvironmentProblem: no space, no permission, or another fault of the file system.
    """
    write_all_atomically([(path, content)])


def write_all_atomically(contents: Iterable[tuple[Path, bytes]]) -> None:
    """As `write_atomically` of each of several files, which are flushed to disk together.

    A file is there under its name only when all of them are on disk; which of them are there after
    a kill is open.

    Args:
        contents: taken one by one, so that they need not be in memory together.

    Raises:
        EnvironmentProblem: as `write_atomically`; what has no name yet is dropped.
    """
    waiting: dict[Path, Path] = {}
    # Processes and threads may write the same file at once: each has a temporary one of its own.
    own = f"{os.getpid()}.{threading.get_ident()}.tmp"

    def flush(path: Path) -> None:
        with _told(path):
            _flush(waiting[path])

    try:
        for path, content in contents:
            waiting[path] = path.with_name(f".{path.name}.{own}")
            with _told(path):
                waiting[path].write_bytes(content)
        _together(flush, waiting)
        folders = {path.parent for path in waiting}
        for path in list(waiting):
            with _told(path):
                waiting[path].replace(path)
            del waiting[path]
        _together(_flush, folders)
    finally:
        for temporary in waiting.values():
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """A fault of the file system says what could not be written."""
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(f"{path}: cannot be written: {error.strerror}") from None


def _together(do: Callable[[Path], None], paths: Iterable[Path]) -> None:
    """Do something that waits for the disk to every path; raises the first fault."""
    paths = list(paths)
    if len(paths) <= 1:
        for path in paths:
            do(path)
        return
    with ThreadPoolExecutor(min(FLUSHES, len(paths))) as threads:
        list(threads.map(do, paths))


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path, remedy: str) -> io.BufferedReader:
    """Open a file for reading, never anything that reading could wait for, such as a pipe.

    Args:
        remedy: what to do if that cannot be done, for the message.

    Raises:
        FileNotFoundError: nothing is there.
        EnvironmentProblem: what is there is no regular file, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise EnvironmentProblem(f"{path}: cannot be read: {error.strerror}; {remedy}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise EnvironmentProblem(f"{path}: is not a regular file; {remedy}")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, remedy: str) -> bytes:
    """The content of a file that has to be there, opened as `open_regular` does.

    Raises:
        EnvironmentProblem: it is missing, no regular file, or cannot be read.
    """
    try:
        with open_regular(path, remedy) as file:
            return file.read()
    except FileNotFoundError:
        raise EnvironmentProblem(f"{path}: is missing; {remedy}") from None
    except OSError as error:
        raise EnvironmentProblem(f"{path}: cannot be read: {error.strerror}; {remedy}") from None


def file_sha256(path: Path, remedy: str) -> str:
    """SHA-256 of a file's content, read in parts; raises as `open_regular` does."""
    with open_regular(path, remedy) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path) -> Path:
    """Make a folder if it is not there, and never take a link to another one for it.

    Raises:
        EnvironmentProblem: the path is a symbolic link, no folder, or cannot be made.
    """
    if path.is_symlink():
        raise EnvironmentProblem(
            f"{path}: is a symbolic link, which is not followed; delete the link and run again"
        )
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"{path}: cannot be made: {error.strerror}; move what is there and run again"
        ) from None
    return path


def is_empty(folder: Path) -> bool:
    """Whether a folder has no visible file: locks and temporary files do not count."""
    return all(path.name.startswith(".") for path in folder.iterdir())


def sha256_hex(content: bytes) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def tensors_to_bytes(tensors: "dict[str, Tensor]") -> bytes:
    """Tensors in the safetensors format, on the host and contiguous."""
    import safetensors.torch

    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )


def parquet(table: "pd.DataFrame") -> bytes:
    """A table in the Parquet format."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def json_bytes(content: dict[str, Any]) -> bytes:
    """A JSON object, keys sorted."""
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
