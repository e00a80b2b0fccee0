"""Reading FFCV files that their manifest vouches for.

A file is opened once and read through its descriptor: replaced or deleted meanwhile it goes on
being what was checked. Nothing is mapped into memory, so a file that is truncated under the reader
is an error, not a signal.
"""

import os
import stat
import weakref
from typing import Literal

import numpy as np
import numpy.typing as npt

from fasttrain_data.batches import Split
from fasttrain_data.catalogue import expanded
from fasttrain_data.errors import DataError
from fasttrain_data.ffcv.layout import (
    ALLOCATION,
    HEADER,
    INDEX_START,
    JPG,
    RECORDS,
    VERSION,
    fields,
)
from fasttrain_data.ffcv.manifest import read_manifest
from fasttrain_data.ffcv.writer import checksums

Verify = Literal["fast", "full", "off"]
VERIFY: tuple[Verify, ...] = ("fast", "full", "off")

_State = tuple[int, int, int, int]
_verified: set[_State] = set()
"""Files whose every byte this process has checked, by device, inode, size and time of change."""


class Beton:
    """An open FFCV file.

    `verify` is `full` (the SHA-256 of every byte, once per process), `fast` (of everything but the
    images) or `off`; size, header, labels and data pointers are checked by all three.

    Raises `DataError` in one line for a file that is missing, damaged, of another version, not
    written by `write_beton`, or not the one that its manifest describes.
    """

    def __init__(self, path: str | os.PathLike[str], verify: Verify = "full") -> None:
        if verify not in VERIFY:
            raise DataError(f"verify is {verify!r}, allowed are {', '.join(VERIFY)}")
        self.path = expanded(path)
        try:
            # A pipe would be waited for.
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from None
        weakref.finalize(self, os.close, self.descriptor)
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            raise DataError(f"{self.path} is no file")
        self._state = self._stat()
        self.manifest = read_manifest(self.path)
        self._check_size()
        self._check_checksums(verify)
        self.pointers, self.sizes, self.labels = self._read_index()

    def _stat(self) -> _State:
        found = os.fstat(self.descriptor)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def check_unchanged(self) -> None:
        """Raise `DataError` if the open file was written to or truncated since it was checked."""
        if self._stat() != self._state:
            raise DataError(f"{self.path} was changed while it was open: open it again")

    def _check_size(self) -> None:
        size = self._state[2]
        if size == 0:
            raise DataError(f"{self.path} is empty")
        if size != self.manifest.size:
            raise DataError(
                f"{self.path} has {size} bytes, by its manifest {self.manifest.size}: it is"
                " truncated or another file; write it again"
            )
        bytes_each = RECORDS[self.manifest.mode].itemsize + ALLOCATION.itemsize
        if INDEX_START + self.manifest.num_samples * bytes_each > size:
            raise self._damaged(f"it has no room for {self.manifest.num_samples} samples")

    def _check_checksums(self, verify: Verify) -> None:
        manifest = self.manifest
        if verify == "full" and self._state not in _verified:
            _, _, sha256 = checksums(self.descriptor, manifest.num_samples, manifest.mode)
            if sha256 != manifest.sha256:
                raise self._damaged("its checksum is not the manifest's")
            _verified.add(self._state)
        elif verify == "fast" and self._index_checksum() != manifest.index_sha256:
            raise self._damaged("the checksum of its index is not the manifest's")

    def _index_checksum(self) -> str:
        import hashlib

        front = INDEX_START + self.manifest.num_samples * RECORDS[self.manifest.mode].itemsize
        index = hashlib.sha256(self._read(0, front))
        last = self._header()["alloc_table_ptr"]
        if not front <= last <= self._state[2]:
            raise self._damaged(f"its allocations are said to begin at byte {last}")
        index.update(self._read(int(last), self._state[2] - int(last)))
        return index.hexdigest()

    def _header(self) -> np.void:
        return np.frombuffer(self._read(0, HEADER.itemsize), HEADER)[0]

    def _read_index(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Return where the data of each sample begin, how many bytes they are, and the labels."""
        manifest, header = self.manifest, self._header()
        if header["version"] != VERSION:
            raise DataError(
                f"{self.path} is an FFCV file of format {header['version']}, or none: this version"
                f" reads format {VERSION}"
            )
        kinds = fields(manifest.mode, manifest.shape).tobytes()
        if (
            header["num_samples"] != manifest.num_samples
            or header["num_fields"] != 2
            or self._read(HEADER.itemsize, len(kinds)) != kinds
        ):
            raise self._damaged("its samples are not of the manifest's number and kind")
        dtype = RECORDS[manifest.mode]
        content = self._read(INDEX_START, manifest.num_samples * dtype.itemsize)
        records = np.frombuffer(content, dtype)
        image = records["image"]
        height, width, _ = manifest.shape
        if manifest.mode == "jpg" and not (
            (image["mode"] == JPG).all()
            and (image["height"] == height).all()
            and (image["width"] == width).all()
        ):
            raise self._damaged("an image is said to be of another size or encoding")
        pointers = (image if manifest.mode == "raw" else image["data_ptr"]).astype(np.int64)
        start, page_size = int(header["alloc_table_ptr"]), int(header["page_size"])
        if page_size == 0 or start % page_size:
            raise self._damaged(f"its pages are said to have {page_size} bytes")
        sizes = self._sizes(start, pointers)
        labels = records["label"].astype(np.int64)
        if labels.min() < 0 or labels.max() >= len(manifest.class_names):
            raise self._damaged(f"labels must lie in 0..{len(manifest.class_names) - 1}")
        return pointers, sizes, labels

    def _sizes(self, start: int, pointers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        size = self._state[2]
        first = INDEX_START + len(pointers) * RECORDS[self.manifest.mode].itemsize
        if start + len(pointers) * ALLOCATION.itemsize != size:
            raise self._damaged(f"its allocations are said to begin at byte {start}")
        table = np.frombuffer(self._read(start, size - start), ALLOCATION)
        sizes = table["size"].astype(np.int64)
        if (
            (pointers < first).any()
            or (pointers > start).any()
            or (sizes > start - pointers).any()
            or (table["ptr"] != pointers).any()
            or (table["sample_id"] != np.arange(len(pointers))).any()
            or (sizes <= 0).any()
            or (self.manifest.mode == "raw" and (sizes != np.prod(self.manifest.shape)).any())
        ):
            raise self._damaged("a sample is said to lie where none can")
        return sizes

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"{self.path} is damaged or not the file that its manifest describes: {reason};"
            " write it again"
        )

    def _read(self, start: int, size: int) -> bytes:
        content = os.pread(self.descriptor, size, start)
        if len(content) != size:
            raise self._damaged("it ends too early")
        return content

    def images(self) -> npt.NDArray[np.uint8]:
        """Return all images of a raw file: (N, H, W, C).

        Raises `DataError` if the file was changed meanwhile.
        """
        images = np.empty((self.manifest.num_samples, *self.manifest.shape), np.uint8)
        # Samples that lie one after another are read together.
        breaks = np.flatnonzero(np.diff(self.pointers) != self.sizes[:-1]) + 1
        bounds = [0, *breaks.tolist(), len(images)]
        for first, last in zip(bounds[:-1], bounds[1:], strict=True):
            buffer = images[first:last].data.cast("B")
            position = int(self.pointers[first])
            while buffer:
                count = os.preadv(self.descriptor, [buffer], position)
                if count == 0:
                    raise self._damaged("it ends too early")
                buffer, position = buffer[count:], position + count
        self.check_unchanged()
        return images

    def split(self) -> Split:
        """Return what a loader has to know."""
        manifest = self.manifest
        return Split(
            name=str(self.path),
            split=manifest.split,
            shape=(manifest.num_samples, *manifest.shape),
            labels=self.labels,
            mean=manifest.mean,
            std=manifest.std,
        )
