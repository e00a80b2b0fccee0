"""The fused augmentation on a CPU against the plain one, bit for bit, and its properties."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrain_kernels import cpu_augment
from fasttrain_kernels.augment import DTYPES, augment, byte_table

SHAPES = [(7, 9, 3), (8, 8, 1), (32, 32, 3), (5, 6, 2), (1, 1, 1)]
DRAWS = [
    {"flip": flip, "padding": padding, "cutout": cutout}
    for flip, padding, cutout in itertools.product((False, True), (0, 3), (0, 1, 4, 5))
]
ALL = {"flip": True, "padding": 2, "cutout": 3}


@pytest.fixture(autouse=True)
def memory_starts_as_nan():
    """`torch.empty` gives NaN: whatever a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def problem(shape, dtype=torch.float32, num_images=50):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (num_images, *shape), dtype=torch.uint8, generator=generator)
    mean = torch.linspace(0.2, 0.7, shape[2], dtype=torch.float64)
    return (
        images,
        torch.randperm(num_images, generator=generator),
        byte_table(mean, mean / 3, dtype),
    )


@pytest.mark.parametrize("draws", DRAWS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_are_the_references(shape, draws):
    images, rows, table = problem(shape)
    found = augment(images, rows, table, seed=9, epoch=4, **draws)
    expected = augment(images, rows, table, seed=9, epoch=4, backend="reference", **draws)
    assert torch.equal(found, expected)
    assert found.shape == (50, shape[2], *shape[:2])
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(dtype):
    images, rows, table = problem((7, 9, 3), dtype)
    found = augment(images, rows, table, seed=1, **ALL)
    assert found.dtype == dtype
    assert torch.equal(found, augment(images, rows, table, seed=1, backend="reference", **ALL))


@given(
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
    sample=st.integers(0, 2**63 - 1),
)
@settings(max_examples=50, deadline=None)
def test_keys_of_any_size(seed, epoch, sample):
    images, _, table = problem((7, 9, 3), num_images=2)
    key = {"samples": torch.tensor([sample, sample]), "seed": seed, "epoch": epoch, **ALL}
    rows = torch.tensor([1, 0])
    assert torch.equal(
        augment(images, rows, table, **key),
        augment(images, rows, table, backend="reference", **key),
    )


def test_the_table_is_the_affine_map_rounded_twice():
    mean, std = torch.tensor([0.49, 0.3]).double(), torch.tensor([0.2, 0.25]).double()
    scale, shift = (1 / (255 * std)).float(), (-mean / std).float()
    expected = torch.arange(256).float() * scale[:, None] + shift[:, None]
    assert torch.equal(byte_table(mean, std), expected)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(byte_table(mean, std, dtype), expected.to(dtype))


def test_threads_do_not_change_bits(monkeypatch):
    images, rows, table = problem((32, 32, 3))
    expected = augment(images, rows, table, **ALL)
    monkeypatch.setattr(cpu_augment, "GRAIN", 1)
    assert torch.equal(augment(images, rows, table, **ALL), expected)


def test_a_square_of_zeros_is_cut_out_of_every_image():
    images, rows, table = problem((32, 32, 3), num_images=400)
    whole, cut = (augment(images, rows, table, cutout=size) for size in (0, 8))
    holes = (cut == 0).all(1)
    assert torch.equal(cut.where(holes[:, None], whole), cut)
    areas = holes.sum((1, 2))
    # Clipped at a corner a square of 8 keeps at least 4 x 4.
    assert 16 <= int(areas.min()) and int(areas.max()) == 64
    centres = {tuple(hole.nonzero()[0].tolist()) for hole in holes[:200]}
    assert len(centres) > 100


def test_nothing_is_returned_for_no_rows():
    images, rows, table = problem((7, 9, 3))
    assert augment(images, rows[:0], table, **ALL).shape == (0, 3, 7, 9)


FORKED = """
import os, torch
from fasttrain_kernels.augment import augment, byte_table
images, rows = torch.zeros(200, 32, 32, 3, dtype=torch.uint8), torch.arange(200)
table = byte_table(torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
expected = augment(images, rows, table, flip=True).numpy()
child = os.fork()
if child == 0:
    os._exit(int((augment(images, rows, table, flip=True).numpy() != expected).any()))
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_can_augment():
    # GNU OpenMP, where numba has no other pool, kills a child that enters a parallel region.
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "omp"}
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


REFUSED = {
    "float images": ({"images": torch.zeros(2, 4, 4, 3)}, "images are torch.float32"),
    "grey images": (
        {"images": torch.zeros(2, 4, 4, dtype=torch.uint8)},
        r"images are torch.uint8 of shape \(2, 4, 4\)",
    ),
    "strided images": (
        {"images": torch.zeros(2, 4, 8, 3, dtype=torch.uint8)[:, :, ::2]},
        "contiguous uint8",
    ),
    "table": ({"table": torch.zeros(1, 256)}, r"the table is torch.float32 of shape \(1, 256\)"),
    "integer table": ({"table": torch.zeros(3, 256, dtype=torch.int32)}, "table is torch.int32"),
    "rows": ({"rows": torch.zeros(2, dtype=torch.int32)}, "an index is torch.int32"),
    "samples": ({"samples": torch.zeros(3, dtype=torch.int64)}, r"shape \(3,\)"),
    "device": ({"rows": torch.zeros(2, dtype=torch.int64, device="meta")}, "cpu, meta"),
    "backend": ({"backend": "cuda"}, "backend='cuda' on cpu: allowed are numba"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused(case):
    changes, message = REFUSED[case]
    arguments = {
        "images": torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
        "rows": torch.arange(2),
        "table": torch.zeros(3, 256),
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        augment(**arguments)
