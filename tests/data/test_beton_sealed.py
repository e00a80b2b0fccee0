"""FFCV files that are wrong and yet sealed: checksums agree, and a field cannot be what it says.

Nothing here needs FFCV. Whatever a field holds, reading gives the images or a `DataError`.
"""

import hashlib
import json

import numpy as np
import pytest
from beton_files import made

from fasttrain_data import Beton, DataError, write_beton
from fasttrain_data.ffcv import layout as beton_layout
from fasttrain_data.ffcv.layout import ALLOCATION, FIELD, HEADER, INDEX_START, RECORDS
from fasttrain_data.ffcv.manifest import manifest_path

NUM = 5
EXTREMES = (0, 1, 2, 3, 255, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63)
LAST = 2**64 - 1


def sealed(path, content, **changes):
    """Write bytes as a file, with a manifest whose checksums are theirs."""
    table = json.loads(manifest_path(path).read_text()) | changes
    itemsize = RECORDS["jpg" if table["mode"] == "jpg" else "raw"].itemsize
    num = table["num_samples"] if isinstance(table["num_samples"], int) else NUM
    front = min(max(0, INDEX_START + num * itemsize), len(content))
    last = max(front, min(int.from_bytes(content[16:24], "little"), len(content)))
    table["index_sha256"] = hashlib.sha256(content[:front] + content[last:]).hexdigest()
    table["sha256"] = hashlib.sha256(content).hexdigest()
    table["size"] = changes.get("size", len(content))
    path.write_bytes(content)
    manifest_path(path).write_text(json.dumps(table))


def outcome(path, verify):
    """`ok`, or what was wrong in one line; anything but a `DataError` is raised."""
    try:
        beton = Beton(path, verify)
        if beton.manifest.mode == "raw":
            images = beton.images()
            assert images.shape == (len(beton.labels), *beton.manifest.shape)
        beton.split()
    except DataError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return str(error)
    return "ok"


def places(mode):
    """Every number of the index: what it is, where it stands, how many bytes it has."""
    found = [(f"header {name}", *HEADER.fields[name][::-1]) for name in HEADER.names]
    numbers = [(name, at, dtype.itemsize) for name, at, dtype in found]
    for field in range(2):
        start = HEADER.itemsize + field * FIELD.itemsize
        numbers.append((f"field {field} type", start, 1))
        numbers += [
            (f"field {field} argument {i}", start + 17 + 8 * i, 8) for i in (0, 1, 2, 3, 32)
        ]
    dtype = RECORDS[mode]
    for sample in (0, NUM - 1):
        start = INDEX_START + sample * dtype.itemsize
        numbers.append((f"label {sample}", start + dtype.fields["label"][1], 8))
        image = dtype.fields["image"][0]
        for name in image.names or ():
            kind, at = image.fields[name][:2]
            numbers.append((f"{name} {sample}", start + at, kind.itemsize))
        if not image.names:
            numbers.append((f"pointer {sample}", start, 8))
    return numbers


@pytest.fixture(params=["raw", "jpg"])
def written(request, tmp_path, monkeypatch):
    """The path of a small file, its mode and its bytes."""
    monkeypatch.setattr(beton_layout, "MIN_PAGE_SIZE", 2**12)
    path = tmp_path / "made.beton"
    write_beton(made(num_train=NUM), path, mode=request.param)
    return path, request.param, path.read_bytes()


@pytest.mark.parametrize("verify", ["fast", "full"])
def test_no_number_of_the_index_leads_to_anything_but_images_or_a_data_error(written, verify):
    path, mode, content = written
    table = len(content) - NUM * ALLOCATION.itemsize
    numbers = places(mode) + [
        (f"allocation {name}", table + ALLOCATION.fields[name][1], 8) for name in ALLOCATION.names
    ]
    for name, at, size in numbers:
        for value in (*EXTREMES, LAST, len(content), table, table - 1):
            number = (value % 2 ** (8 * size)).to_bytes(size, "little")
            sealed(path, content[:at] + number + content[at + size :])
            found = outcome(path, verify)
            # Another label is a label; pages of another size may end where these do; a JPEG may
            # have any length.
            free = ("label", "header page", "allocation size" if mode == "jpg" else "label")
            if number != content[at : at + size] and not name.startswith(free):
                assert found != "ok", f"{name} = {value}"


@pytest.mark.parametrize("verify", ["fast", "off"])
def test_no_bytes_of_the_index_do(written, verify):
    path, mode, content = written
    generator = np.random.default_rng(0)
    front = INDEX_START + NUM * RECORDS[mode].itemsize
    table = len(content) - NUM * ALLOCATION.itemsize
    index = np.r_[0:front, table : len(content)]
    for _ in range(300):
        damaged = bytearray(content)
        for at in generator.choice(index, generator.integers(1, 20)):
            damaged[at] = int(generator.integers(256))
        sealed(path, bytes(damaged))
        outcome(path, verify)


IMPOSSIBLE = (0, -1, 1, 3, True, None, "x", "", 1.5, float("nan"), float("inf"), [], [1], {}, 2**31)
IMPOSSIBLE += (2**63, 2**64, 10**400, [10**400] * 3, [True] * 3, ["a"] * 3, [None] * 3, [[1]] * 3)
IMPOSSIBLE += (
    [2**31] * 3,
    [2**40, 2**40, 3],
    [7, 9, 2],
    [0.1, 0.2, float("nan")],
    "\ud800",
    [0] * 3,
)


@pytest.mark.parametrize("verify", ["fast", "full"])
def test_no_value_of_the_manifest_does(written, verify):
    path, mode, content = written
    manifest = manifest_path(path).read_text()
    for name in json.loads(manifest_path(path).read_text()):
        for value in IMPOSSIBLE:
            manifest_path(path).write_text(manifest)
            sealed(path, content, **{name: value})
            outcome(path, verify)
