"""Data sets from arrays, in the forms that they are met in: each conversion is stated, and said.

    images   uint8 (N, H, W, C), C 1 or 3           as they are
             (N, H, W)                              gray: C = 1
             (N, C, H, W), where the last axis      moved to (N, H, W, C)
             is not 1 or 3
             floats, all of them in [0, 1]          times 255, rounded
             floats or integers that are whole      cast
             numbers in 0..255
             bool                                   0 and 255
    labels   integers (N,) in 0..K-1                as they are
             integers (N, 1)                        made (N,)

Whatever else there is, is refused with the remedy. Floats of one data set are read by one rule.
Names, in any case of letters: `train_images`, `x_train`, `train_x` or `train_data`; `train_labels`,
`y_train`, `train_y` or `train_targets`; the same of `test`; `probe_NAME_images` and
`probe_NAME_labels` of further evaluation sets; `class_names`, `mean`, `std`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fasttrain_data.errors import DataError
from fasttrain_data.images import CHANNELS, ImageData, as_floats, channel_statistics

Arrays = Mapping[str, np.ndarray]
IMAGES = ("{}_images", "x_{}", "{}_x", "{}_data")
LABELS = ("{}_labels", "y_{}", "{}_y", "{}_targets")
OPTIONAL = ("class_names", "mean", "std")
PROBE = re.compile(r"probe_(.+)_(images|labels)")
_CHUNK = 1024


def canonical(key: str) -> str | None:
    """The name that an array is known by here: `train_images` of `X_train`; None if it is none."""
    name = key.lower()
    if name in OPTIONAL or PROBE.fullmatch(name):
        return name
    for split in ("train", "test"):
        for what, forms in (("images", IMAGES), ("labels", LABELS)):
            if name in (form.format(split) for form in forms):
                return f"{split}_{what}"
    return None


def images_of(arrays: Mapping[str, Any], name: str, where: str) -> ImageData:
    """A data set from named arrays.

    Without `class_names` the classes are the labels 0..K-1 of the training set, all of them
    present; without `mean` and `std` they are those of the training images.

    Args:
        where: what messages begin with.

    Raises:
        DataError: naming the array: something is missing, there twice, or cannot be converted.
    """
    notes: list[str] = []
    named = _named(arrays, where, notes)
    missing = [
        f"{split}_{what}"
        for split in ("train", "test")
        for what in ("images", "labels")
        if f"{split}_{what}" not in named
    ]
    if missing:
        raise DataError(f"{where}: there is no {missing[0]} among {list(map(str, arrays))}")
    splits = ["train", "test", *_probes(named, where)]
    images = {split: named[f"{split}_images"] for split in splits}
    scale = _scale(images, where)
    made = {
        split: _images(array, f"{split}_images", scale, where, notes)
        for split, array in images.items()
    }
    labels = {
        split: _labels(named[f"{split}_labels"], f"{split}_labels", where, notes)
        for split in splits
    }
    class_names = _class_names(named, labels["train"], where)
    mean, std = _statistics(named, made["train"], where)
    sets = {split: (made[split], labels[split]) for split in splits}
    try:
        return ImageData(
            name=name,
            train_images=sets["train"][0],
            train_labels=sets["train"][1],
            test_images=sets["test"][0],
            test_labels=sets["test"][1],
            class_names=class_names,
            mean=mean,
            std=std,
            probes={split.removeprefix("probe_"): sets[split] for split in splits[2:]},
            notes=tuple(notes),
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _named(arrays: Mapping[str, Any], where: str, notes: list[str]) -> dict[str, np.ndarray]:
    named: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    for key, value in arrays.items():
        known = canonical(str(key))
        if known is None:
            notes.append(f"{key} is not used")
            continue
        if known in named:
            raise DataError(f"{where}: {origin[known]} and {key} say the same; leave one out")
        named[known], origin[known] = np.asarray(value), str(key)
    return named


def _probes(named: Iterable[str], where: str) -> Iterator[str]:
    """`probe_NAME` of each probe set."""
    found: dict[str, set[str]] = {}
    for key in named:
        if match := PROBE.fullmatch(key):
            found.setdefault(f"probe_{match[1]}", set()).add(match[2])
    for probe, whats in found.items():
        for what in {"images", "labels"} - whats:
            raise DataError(f"{where}: there is no {probe}_{what}")
        yield probe


def _scale(images: Arrays, where: str) -> int:
    """What floats are multiplied by: 255 if all are in [0, 1], 1 if they are pixels."""
    floats = {split: array for split, array in images.items() if array.dtype.kind == "f"}
    largest = 0.0
    for split, array in floats.items():
        if not array.size:
            continue
        low, high = float(array.min()), float(array.max())
        if not 0 <= low <= high <= 255:
            # Also of NaN.
            raise DataError(
                f"{where}: {split}_images is {array.dtype} in {low:g}..{high:g}: floats in [0, 1]"
                " or 0..255 are needed; give pixels as they were before they were normalised"
            )
        largest = max(largest, high)
    return 255 if largest <= 1 else 1


def _images(array: np.ndarray, key: str, scale: int, where: str, notes: list[str]) -> np.ndarray:
    """Return images as uint8 (N, H, W, C)."""
    said = []
    if array.ndim == 3:
        array = array[..., np.newaxis]
        said.append("(N, H, W) as gray")
    elif array.ndim == 4 and array.shape[3] not in CHANNELS and array.shape[1] in CHANNELS:
        array = array.transpose(0, 2, 3, 1)
        said.append("(N, C, H, W) as (N, H, W, C)")
    if array.ndim != 4 or array.size == 0 or array.shape[3] not in CHANNELS:
        remedy = ""
        if array.ndim == 2:
            remedy = "; reshape flat images to it"
        elif array.ndim == 4 and array.shape[3] == 4:
            remedy = "; leave transparency out: images[..., :3]"
        raise DataError(
            f"{where}: {key} has shape {array.shape}, (N, H, W, C) is needed, not empty, with C 1"
            f" or 3{remedy}"
        )
    pixels = _pixels(array, key, scale, where)
    if array.dtype != np.uint8:
        how = {"f": f"times {scale}, rounded" if scale > 1 else "cast", "b": "as 0 and 255"}
        said.append(f"{array.dtype} {how.get(array.dtype.kind, 'cast')} to uint8")
    if said:
        notes.append(f"{key}: {', '.join(said)}")
    return pixels


def _pixels(array: np.ndarray, key: str, scale: int, where: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "iufb":
        raise DataError(f"{where}: {key} is {array.dtype}, uint8 is needed")
    if array.dtype.kind in "iu" and not 0 <= array.min() <= array.max() <= 255:
        raise DataError(
            f"{where}: {key} is {array.dtype} in {array.min()}..{array.max()}: 0..255 is needed;"
            " scale it"
        )
    factor = 255 if array.dtype.kind == "b" else scale if array.dtype.kind == "f" else 1
    pixels = np.empty(array.shape, np.uint8)
    for first in range(0, len(array), _CHUNK):
        part = array[first : first + _CHUNK]
        rounded = np.rint(part * factor) if array.dtype.kind == "f" else part * factor
        if scale == 1 and array.dtype.kind == "f" and not np.array_equal(rounded, part):
            raise DataError(
                f"{where}: {key} is {array.dtype} in 0..255 and holds {_fraction(part):g}: whole"
                " numbers, or floats in [0, 1], are needed"
            )
        pixels[first : first + _CHUNK] = rounded
    return pixels


def _fraction(part: np.ndarray) -> float:
    return float(part[np.rint(part) != part].flat[0])


def _labels(array: np.ndarray, key: str, where: str, notes: list[str]) -> np.ndarray:
    """Return labels as int64 (N,)."""
    if array.dtype.kind in "USOT":
        example = f" ({str(array.flat[0])[:40]!r})" if array.size else ""
        raise DataError(
            f"{where}: {key} is text{example}: numbers 0..K-1 are needed; class_names, labels ="
            " np.unique(labels, return_inverse=True) makes them"
        )
    if array.dtype.kind not in "iu":
        remedy = "; labels.astype(np.int64) makes it" if array.dtype.kind == "f" else ""
        raise DataError(f"{where}: {key} is {array.dtype}, an integer type is needed{remedy}")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
        notes.append(f"{key}: (N, 1) as (N,)")
    elif array.ndim == 2:
        raise DataError(
            f"{where}: {key} has shape {array.shape}, (N,) is needed; labels.argmax(axis=1) makes"
            " it of one column a class"
        )
    return array.astype(np.int64)


def _class_names(named: Arrays, train_labels: np.ndarray, where: str) -> tuple[str, ...]:
    if "class_names" in named:
        names = named["class_names"]
        if names.dtype.kind != "U" or names.ndim != 1:
            raise DataError(
                f"{where}: class_names is {names.dtype} of shape {names.shape},"
                " a list of strings is needed"
            )
        return tuple(names.tolist())
    present = np.unique(train_labels)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if gaps.size:
        raise DataError(
            f"{where}: the train labels have {present[gaps[0]]} but not {gaps[0]}:"
            " 0..K-1 are needed, or class_names if a class is empty"
        )
    return tuple(str(label) for label in present.tolist())


def _statistics(
    named: Arrays,
    train_images: np.ndarray,  # (N, H, W, C) uint8
    where: str,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std: those given, or for each that is not there that of the images."""
    measured = dict(zip(("mean", "std"), channel_statistics(train_images), strict=True))
    for key in measured:
        if key not in named:
            continue
        values = named[key]
        if values.dtype.kind not in "fiu" or values.ndim != 1:
            raise DataError(
                f"{where}: {key} is {values.dtype} of shape {values.shape},"
                " one number per channel is needed"
            )
        measured[key] = values.tolist()
    return as_floats(measured["mean"]), as_floats(measured["std"])
