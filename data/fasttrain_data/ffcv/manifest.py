"""The manifest beside an FFCV file: its content and its checksums."""

import json
import math
import re
import reprlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from fasttrain_data.catalogue import existing
from fasttrain_data.errors import DataError
from fasttrain_data.images import CHANNELS, PROBE_NAME

FORMAT = 1
MOST = 2**48
"""bytes, samples and pixels that no file has more of"""
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
    if not where.exists():
        raise DataError(
            f"{path} has no manifest {where.name} beside it: files are written, with it, by"
            " `fasttrain data write`"
        )
    try:
        table: Any = json.loads(existing(where).read_text(encoding="utf-8"))
    except RecursionError:
        raise DataError(f"{where} cannot be read: nested too deep") from None
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} cannot be read: {' '.join(str(error).split())}") from None
    version = table.get("format") if isinstance(table, dict) else None
    if version != FORMAT or isinstance(version, bool):
        raise DataError(f"{where} is of format {version!r}, this version reads format {FORMAT}")
    expected = {field.name for field in fields(Manifest)}
    if table.keys() != expected:
        different = ", ".join(sorted(table.keys() ^ expected))
        raise DataError(f"{where} is damaged: {different} missing or unknown")
    for name, is_sound in SOUND.items():
        if not is_sound(table[name]):
            raise DataError(f"{where} is damaged: {name} is {reprlib.repr(table[name])}")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    manifest = Manifest(**values)
    if not len(manifest.mean) == len(manifest.std) == manifest.shape[2]:
        raise DataError(
            f"{where} is damaged: {manifest.shape[2]} channels, mean {manifest.mean},"
            f" std {manifest.std}"
        )
    return manifest


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= MOST


def _is_text(value: Any) -> bool:
    # A surrogate is half a sign, which nothing can print.
    return isinstance(value, str) and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _is_list(value: Any, is_item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(is_item, value))


def _is_shape(value: Any) -> bool:
    return (
        _is_list(value, _is_count)
        and len(value) == 3
        and value[2] in CHANNELS
        and math.prod(value) <= MOST
    )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MOST


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


SOUND: dict[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "split": lambda value: isinstance(value, str) and PROBE_NAME.fullmatch(value) is not None,
    "mode": lambda value: value in MODES,
    "num_samples": _is_count,
    "shape": _is_shape,
    "class_names": lambda value: _is_list(value, _is_text),
    "mean": lambda value: _is_list(value, _is_finite),
    "std": lambda value: _is_list(value, lambda item: _is_finite(item) and item > 0),
    "size": _is_count,
    "index_sha256": _is_digest,
    "sha256": _is_digest,
}
"""What each value of a manifest has to be."""
