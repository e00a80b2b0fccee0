"""The manifest beside an FFCV file: what the file holds, and by which bytes to recognise it."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from fasttrain_data.errors import DataError
from fasttrain_data.images import CHANNELS

FORMAT = 1
Mode = Literal["raw", "jpg"]
MODES: tuple[Mode, ...] = ("raw", "jpg")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content and checksums of one split in one file.

    `index_sha256` is over everything but the images: header, fields, records, allocations.
    """

    format: int
    name: str
    split: str
    mode: Mode
    num_samples: int
    shape: tuple[int, int, int]  # (H, W, C)
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # (C,), of pixels in [0, 1]
    std: tuple[float, ...]  # (C,)
    size: int  # bytes of the file
    index_sha256: str
    sha256: str

    def to_json(self) -> str:
        """Return the text of the manifest's file."""
        return json.dumps(asdict(self), indent=1) + "\n"


def manifest_path(path: Path) -> Path:
    """Return where the manifest of an FFCV file lies."""
    return path.with_name(f"{path.name}.json")


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the FFCV file `path`; a `DataError` says what is wrong with it."""
    where = manifest_path(path)
    try:
        table: Any = json.loads(where.read_text())
    except FileNotFoundError:
        raise DataError(
            f"{path} has no manifest {where.name} beside it: files are written, with it, by"
            " `fasttrain data write`"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{where} cannot be read: {' '.join(str(error).split())}") from None
    version = table.get("format") if isinstance(table, dict) else None
    if version != FORMAT:
        raise DataError(f"{where} is of format {version!r}, this version reads format {FORMAT}")
    expected = {field.name for field in fields(Manifest)}
    if table.keys() != expected:
        different = ", ".join(sorted(table.keys() ^ expected))
        raise DataError(f"{where} is damaged: {different} missing or unknown")
    try:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
        }
        manifest = Manifest(**values)
        _check(manifest)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} is damaged: {error}") from None
    return manifest


def _check(manifest: Manifest) -> None:
    """Raise `ValueError` or `TypeError` for values that no file can have."""
    height, width, channels = manifest.shape
    if manifest.mode not in MODES or manifest.split not in ("train", "test"):
        raise ValueError(f"mode {manifest.mode!r}, split {manifest.split!r}")
    counts = (manifest.num_samples, height, width, manifest.size)
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise ValueError(f"num_samples, height, width and size are {counts}")
    if channels not in CHANNELS or not manifest.class_names:
        raise ValueError(f"{channels} channels, {len(manifest.class_names)} classes")
    for values in (manifest.mean, manifest.std):
        if len(values) != channels or not all(math.isfinite(value) for value in values):
            raise ValueError(f"mean {manifest.mean}, std {manifest.std}")
    if min(manifest.std) <= 0:
        raise ValueError(f"std {manifest.std}")
