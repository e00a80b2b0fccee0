"""Files that are whole or not there: atomic writes, digests, the formats that the store uses."""

import hashlib
import io
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import EnvironmentProblem

# Imported where they are used: a command checks its paths before it waits for torch.
if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a kill or a power cut leaves the old content or the new.

    Raises:
        EnvironmentProblem: no space, no permission, or another fault of the file system.
    """
    # Processes and threads may write the same file at once: each has a temporary one of its own.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentProblem(f"{path}: cannot be written: {error.strerror}") from None
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


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
