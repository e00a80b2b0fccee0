"""The bytes of an FFCV file (format 2): header, fields, samples, data in pages, allocations.

    header | field descriptors | one record per sample | padding to a page | pages | allocations

Images are an NDArray field (`raw`: the bytes of (H, W, C)) or an RGB image field (`jpg`), labels an
integer field. Pages are filled in the order of the samples, so equal samples give equal files:
those that FFCV's own writer gives with one worker. Everything is little-endian.
"""

import json
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

VERSION = 2
MIN_PAGE_SIZE = 8 * 2**20

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

INT_FIELD, RGB_FIELD, NDARRAY_FIELD = 1, 2, 4
JPG = 0
RECORDS = {
    "raw": np.dtype([("image", "<u8"), ("label", "<i8")], align=True),
    "jpg": np.dtype(
        [
            (
                "image",
                [("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")],
            ),
            ("label", "<i8"),
        ],
        align=True,
    ),
}
"""One record per sample; `image` holds where the data begin."""

INDEX_START = HEADER.itemsize + 2 * FIELD.itemsize
"""Where the records begin: after two fields."""


def fields(mode: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the descriptors of the fields `image` and `label`."""
    made = np.zeros(2, FIELD)
    for descriptor, name in zip(made, ("image", "label"), strict=True):
        descriptor["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
    made["type_id"] = (NDARRAY_FIELD if mode == "raw" else RGB_FIELD, INT_FIELD)
    if mode == "raw":
        # The shape in 32 integers, the length of the type's description, the description.
        kind = json.dumps(np.dtype(np.uint8).descr).encode()
        numbers = np.array([*shape, *[0] * (32 - len(shape)), len(kind)], "<u8")
        arguments = numbers.tobytes() + kind
        made[0]["arguments"][: len(arguments)] = np.frombuffer(arguments, np.uint8)
    return made


def write_samples(
    file: BinaryIO,
    samples: Iterable[tuple[bytes, int]],
    num_samples: int,
    mode: str,
    shape: tuple[int, int, int],
) -> None:
    """Write a file of samples, each its encoded image and its label.

    Raises:
        OSError: the file cannot be written.
    """
    records = np.zeros(num_samples, RECORDS[mode])
    allocations = np.zeros(num_samples, ALLOCATION)
    largest = int(np.prod(shape)) if mode == "raw" else 2 * int(np.prod(shape)) + 2**16
    page_size = max(MIN_PAGE_SIZE, 1 << (largest - 1).bit_length())
    start = INDEX_START + records.nbytes
    position = start + -start % page_size
    page_end = position
    for number, (encoded, label) in enumerate(samples):
        if position + len(encoded) > page_end:
            position = page_end
            page_end += page_size
        file.seek(position)
        file.write(encoded)
        allocations[number] = (number, position, len(encoded))
        if mode == "raw":
            records[number] = (position, label)
        else:
            records[number] = ((JPG, shape[1], shape[0], position), label)
        position += len(encoded)
    file.seek(page_end)
    file.write(allocations.tobytes())
    header = np.zeros(1, HEADER)
    header[0] = (VERSION, 2, page_size, num_samples, page_end)
    file.seek(0)
    file.write(header.tobytes() + fields(mode, shape).tobytes() + records.tobytes())
