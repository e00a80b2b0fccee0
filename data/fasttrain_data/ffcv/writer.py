"""Writing FFCV files: validated samples, byte-reproducible, in place whole or not at all.

Needs no FFCV. A file is written under a temporary name beside its place, synchronised, and renamed;
then its manifest. A kill between the two leaves a file that its manifest does not vouch for, which
the loader refuses.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fasttrain_data.catalogue import expanded
from fasttrain_data.errors import DataError, DataUnavailable
from fasttrain_data.ffcv.layout import INDEX_START, RECORDS, write_samples
from fasttrain_data.ffcv.manifest import FORMAT, MODES, Manifest, Mode, manifest_path
from fasttrain_data.images import CHANNELS, ImageData, as_floats, statistics_of_counts

JPG_QUALITY = 95
_CHUNK = 2**20


def write_beton(
    data: ImageData | Sequence[tuple[Any, int]],
    path: str | os.PathLike[str],
    *,
    split: str = "train",
    mode: Mode = "raw",
    name: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Manifest:
    """Write one split as an FFCV file with its manifest, replacing what is there.

    Args:
        data: a data set, or a sequence of samples (image uint8 (H, W, C), label), such as a
            torchvision data set without a transform.
        mode: `raw` is exact; `jpg` (three channels) is smaller and loses some levels.
        name, class_names: of a sequence; the file's stem and the labels found if not given. Its
            mean and std are measured, so that a test split has its own: give both as `ImageData`
            to keep those of the training set.

    Raises:
        DataError: a sample that cannot be read or does not fit, an empty set, a wrong mode.
        DataUnavailable: the file cannot be written.
    """
    path = expanded(path)
    if mode not in MODES:
        raise DataError(f"mode is {mode!r}, allowed are {', '.join(MODES)}")
    source: Sequence[tuple[Any, int]]
    if isinstance(data, ImageData):
        images, labels = data.split(split)
        source = _Pairs(images, labels)
        name, class_names = name or data.name, class_names or data.class_names
    else:
        source = data
        if split not in ("train", "test"):
            raise DataError(f"split {split!r} does not exist: use 'train' or 'test'")
    if len(source) == 0:
        raise DataError(f"{path} cannot be written: the data set is empty")
    samples = _Samples(source, mode, None if class_names is None else len(class_names))
    path = path.absolute()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _delete_leftovers(path)
        with temporary.open("wb") as file:
            write_samples(file, iter(samples), len(source), mode, samples.shape)
            file.flush()
            os.fsync(file.fileno())
        size, index_sha256, sha256 = checksums(temporary, len(source), mode)
        mean, std = samples.statistics()
        manifest = Manifest(
            format=FORMAT,
            name=name or path.stem,
            split=split,
            mode=mode,
            num_samples=len(source),
            shape=samples.shape,
            class_names=tuple(class_names or map(str, range(samples.num_classes))),
            mean=data.mean if isinstance(data, ImageData) else mean,
            std=data.std if isinstance(data, ImageData) else std,
            size=size,
            index_sha256=index_sha256,
            sha256=sha256,
        )
        _put_in_place(path, temporary, manifest)
    except OSError as error:
        raise DataUnavailable(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        _remove(temporary)
    return manifest


class _Pairs(Sequence[tuple[Any, int]]):
    """Images and labels as a sequence of samples."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        return self.images[index], self.labels[index]


class _Samples:
    """Samples checked and encoded one by one; statistics of those that have passed."""

    def __init__(
        self, source: Sequence[tuple[Any, int]], mode: Mode, num_classes: int | None
    ) -> None:
        self.source, self.mode, self.allowed = source, mode, num_classes
        self.num_classes = 0
        first, _ = self._sample(0)
        height, width, channels = first.shape
        self.shape = (int(height), int(width), int(channels))
        if self.mode == "jpg" and channels != 3:
            raise DataError(f"mode 'jpg' needs 3 channels, the images have {channels}: use 'raw'")
        self.counts = np.zeros((channels, 256), np.int64)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        for number in range(len(self.source)):
            image, label = self._sample(number)
            if image.shape != self.shape:
                raise DataError(
                    f"sample {number} has shape {image.shape}, the first one {self.shape}"
                )
            for channel, counts in enumerate(self.counts):
                counts += np.bincount(image[..., channel].ravel(), minlength=256)
            self.num_classes = max(self.num_classes, label + 1)
            yield image.tobytes() if self.mode == "raw" else _jpeg(image), label

    def _sample(self, number: int) -> tuple[np.ndarray, int]:
        # Any exception, for a sample is read by code that is not ours.
        try:
            image, label = self.source[number]
            image, label = np.asarray(image), int(label)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DataError(f"sample {number} cannot be read ({reason})") from error
        if image.dtype != np.uint8:
            raise DataError(f"sample {number} is {image.dtype}, uint8 is needed")
        if image.ndim != 3 or image.size == 0 or image.shape[2] not in CHANNELS:
            raise DataError(
                f"sample {number} has shape {image.shape}, (H, W, C) is needed, not empty,"
                " with C 1 or 3"
            )
        if label < 0 or (self.allowed is not None and label >= self.allowed):
            most = "" if self.allowed is None else f"..{self.allowed - 1}"
            raise DataError(f"sample {number} has label {label}, labels must lie in 0{most}")
        return image, label

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std; std is 1 for a constant channel, which cannot be normalised."""
        mean, std = map(as_floats, statistics_of_counts(self.counts))
        return mean, tuple(value or 1.0 for value in std)


def _jpeg(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPG_QUALITY)
    return buffer.getvalue()


def checksums(path: Path | int, num_samples: int, mode: Mode) -> tuple[int, str, str]:
    """Return size, and SHA-256 of the index and of all, of a file (or an open descriptor).

    The index is what lies before the images and after them.
    """
    whole, index = hashlib.sha256(), hashlib.sha256()
    with open(path, "rb", closefd=not isinstance(path, int)) as file:
        file.seek(0)
        front = INDEX_START + num_samples * RECORDS[mode].itemsize
        head = file.read(front)
        whole.update(head)
        index.update(head)
        last = allocation_start(head)
        position = len(head)
        while chunk := file.read(_CHUNK):
            whole.update(chunk)
            index.update(chunk[max(0, last - position) :] if position + len(chunk) > last else b"")
            position += len(chunk)
    return position, index.hexdigest(), whole.hexdigest()


def allocation_start(head: bytes) -> int:
    """Return where the allocations begin, by the file's header."""
    return int.from_bytes(head[16:24], "little")


def _put_in_place(path: Path, temporary: Path, manifest: Manifest) -> None:
    beside = temporary.with_name(temporary.name + ".json")
    try:
        with beside.open("w") as file:
            file.write(manifest.to_json())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        beside.replace(manifest_path(path))
    finally:
        _remove(beside)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove(path: Path) -> None:
    # Where the directory itself is gone or no directory there is nothing to remove.
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass


def _delete_leftovers(path: Path) -> None:
    """Delete what writers of this file that were killed have left."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp*"):
        pid = leftover.name.removeprefix(f".{path.name}.").split(".")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            _remove(leftover)
