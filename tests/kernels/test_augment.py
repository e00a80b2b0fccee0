"""The fused augmentation on a CPU against the plain one, bit for bit, and its properties."""

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrain_kernels.augment import cpu as cpu_augment
from fasttrain_kernels.augment.augment import DTYPES, augment, byte_map, signed

from .augment_problems import ALL, problem

SHAPES = [(7, 9, 3), (8, 8, 1), (32, 32, 3), (5, 6, 2), (1, 1, 1)]
DRAWS = [
    {"flip": flip, "padding": padding, "cutout": cutout}
    for flip, padding, cutout in itertools.product((False, True), (0, 3), (0, 1, 4, 5))
]


@pytest.fixture(autouse=True)
def memory_starts_as_nan():
    """`torch.empty` gives NaN: whatever a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("draws", DRAWS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_are_the_references(shape, draws):
    images, rows, values = problem(shape)
    found = augment(images, rows, values, seed=9, epoch=4, **draws)
    expected = augment(images, rows, values, seed=9, epoch=4, backend="reference", **draws)
    assert torch.equal(found, expected)
    assert found.shape == (50, shape[2], *shape[:2])
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(dtype):
    images, rows, values = problem((7, 9, 3), dtype)
    found = augment(images, rows, values, seed=1, **ALL)
    assert found.dtype == dtype
    assert torch.equal(found, augment(images, rows, values, seed=1, backend="reference", **ALL))


@given(
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
    sample=st.integers(0, 2**63 - 1),
)
@settings(max_examples=50)
def test_keys_of_any_size(seed, epoch, sample):
    images, _, values = problem((7, 9, 3), num_images=2)
    given = {"samples": torch.tensor([sample, sample]), **ALL}
    key = {**given, "seed": seed, "epoch": epoch}
    rows = torch.tensor([1, 0])
    assert torch.equal(
        augment(images, rows, values, **key),
        augment(images, rows, values, backend="reference", **key),
    )

    words = torch.tensor([signed(seed), epoch])
    for backend in (None, "reference"):
        # Numbers beside a key are not looked at.
        found = augment(images, rows, values, **given, key=words, epoch=1, backend=backend)
        assert torch.equal(found, augment(images, rows, values, **key))


@pytest.mark.parametrize(
    "key", [torch.zeros(3, dtype=torch.int64), torch.zeros(2), torch.zeros(2, 1).long()]
)
def test_a_key_is_two_words(key):
    images, rows, values = problem((7, 9, 3))
    with pytest.raises(ValueError, match=r"the key is .*: int64 \(2,\) on cpu is needed"):
        augment(images, rows, values, key=key)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_byte_of_every_channel_becomes_the_affine_map_rounded_thrice(dtype, channels):
    # Scales for which a fused multiply-add would change more than a third of the fp32 values.
    mean = torch.linspace(0.21, 0.73, channels, dtype=torch.float64)
    std = torch.linspace(0.19, 0.31, channels, dtype=torch.float64)
    wide = torch.promote_types(dtype, torch.float32)
    scale, shift = (1 / (255 * std)).to(wide), (-mean / std).to(wide)
    bytes_ = torch.arange(256)
    expected = (bytes_.to(wide) * scale[:, None] + shift[:, None]).to(dtype)
    values = byte_map(mean, std, dtype)
    assert torch.equal(values.table, expected)
    images = bytes_.to(torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, channels).contiguous()
    found = augment(images, torch.tensor([0]), values)
    assert torch.equal(found[0].flatten(1), expected)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 16, 17])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_nothing_outside_a_batch_is_written(width, channels):
    images, rows, values = problem((5, width, channels))
    around = torch.full((52, 5, width, channels), 77.0)
    draws = {"seed": 3, "epoch": 1, "flip": True, "padding": min(2, width - 1), "cutout": 0}
    cpu_augment.augment(images, rows, rows, values, around[1:-1], **draws)
    assert (around[[0, -1]] == 77).all()
    expected = augment(images, rows, values, backend="reference", **draws)
    assert torch.equal(around[1:-1].permute(0, 3, 1, 2), expected)


def test_threads_do_not_change_bits(monkeypatch):
    images, rows, values = problem((32, 32, 3))
    # More threads than images, too.
    teams = []
    for grain in (2**40, 2**14, 1):
        monkeypatch.setattr(cpu_augment, "GRAIN", grain)
        for count in (50, 3, 1):
            teams.append(augment(images, rows[:count], values, **ALL))
    for count, found in zip((50, 3, 1) * 3, teams, strict=True):
        assert torch.equal(found, teams[0][:count])


def test_a_square_of_zeros_is_cut_out_of_every_image():
    images, rows, values = problem((32, 32, 3), num_images=400)
    whole, cut = (augment(images, rows, values, cutout=size) for size in (0, 8))
    holes = (cut == 0).all(1)
    assert torch.equal(cut.where(holes[:, None], whole), cut)
    areas = holes.sum((1, 2))
    # Clipped at a corner a square of 8 keeps at least 4 x 4.
    assert 16 <= int(areas.min()) and int(areas.max()) == 64
    centres = {tuple(hole.nonzero()[0].tolist()) for hole in holes[:200]}
    assert len(centres) > 100


def test_nothing_is_returned_for_no_rows():
    images, rows, values = problem((7, 9, 3))
    assert augment(images, rows[:0], values, **ALL).shape == (0, 3, 7, 9)


def test_several_callers_at_once(monkeypatch):
    images, rows, values = problem((32, 32, 3))
    expected = [augment(images, rows, values, epoch=epoch, **ALL) for epoch in range(8)]
    monkeypatch.setattr(cpu_augment, "GRAIN", 1)
    with ThreadPoolExecutor(4) as callers:
        epochs = [*range(8)] * 10
        found = callers.map(lambda e: augment(images, rows, values, epoch=e, **ALL), epochs)
        for epoch, batch in zip(epochs, found, strict=True):
            assert torch.equal(batch, expected[epoch])


FORKED = """
import os, torch
from fasttrain_kernels.augment.augment import augment, byte_map
images, rows = torch.zeros(200, 32, 32, 3, dtype=torch.uint8), torch.arange(200)
values = byte_map(torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
backend = {backend!r}
# In the threads of torch either way.
expected = augment(images, rows, values, flip=True, backend=backend).numpy()
child = os.fork()
if child == 0:
    os._exit(int((augment(images, rows, values, flip=True).numpy() != expected).any()))
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_a_forked_process_can_augment(backend):
    # GNU OpenMP hangs a child that enters a parallel region after its parent did.
    command = [sys.executable, "-W", "ignore", "-c", FORKED.format(backend=backend)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


VALUES = byte_map(*torch.ones(2, 3, dtype=torch.float64))

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
    "table": (
        {"values": VALUES._replace(table=torch.zeros(1, 256))},
        r"the table is torch.float32 of shape \(1, 256\)",
    ),
    "integer table": (
        {"values": VALUES._replace(table=torch.zeros(3, 256, dtype=torch.int32))},
        "table is torch.int32",
    ),
    "scale": (
        {"values": VALUES._replace(scale=torch.zeros(2))},
        r"a scale or shift is torch.float32 of shape \(2,\): contiguous torch.float32 \(3,\)",
    ),
    "shift": (
        {"values": VALUES._replace(shift=torch.zeros(3, dtype=torch.float64))},
        "a scale or shift is torch.float64",
    ),
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
        "values": VALUES,
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        augment(**arguments)
