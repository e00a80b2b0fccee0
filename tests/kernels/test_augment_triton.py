"""The Triton augmentation: what it compiles to, and its launch."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed here")

from fasttrain_kernels.augment import triton as augment_triton
from fasttrain_kernels.augment.augment import augment, byte_map  # noqa: E402
from fasttrain_kernels.compiled import static  # noqa: E402


@pytest.mark.parametrize("name", ["augment", "augment, key on the device", "augment, patches"])
@pytest.mark.parametrize("target", static.TARGETS)
def test_compiles_without_spills_to_vector_stores(target, name):
    case = next(case for case in static.cases() if case.name == name)
    row = static._row(case, target)
    assert row["spills"] == row["atomics"] == row["fp64"] == 0
    assert 0 < row["registers"] <= 64
    assert row["occupancy"] >= 0.5
    assert row["stores"].keys() == {128}


def test_launch_is_one_program_per_image_and_part(monkeypatch):
    launches = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **constants: launches.append((grid, arguments, constants))

    monkeypatch.setattr(augment_triton, "_augment_kernel", Kernel())
    images = torch.zeros(4, 80, 75, 3, dtype=torch.uint8)
    one = torch.ones(3, dtype=torch.float64)
    values = byte_map(one, one, torch.bfloat16)
    draws = SimpleNamespace(seed=2**64 - 1, epoch=5, flip=True, padding=2, cutout=0)
    out = torch.empty(2, 80, 75, 3, dtype=torch.bfloat16)
    rows = torch.tensor([1, 3])
    augment_triton.augment(images, rows, rows, values, out, **vars(draws))
    [(grid, arguments, constants)] = launches
    assert grid == (2, 2)
    assert arguments[0].dtype == arguments[4].dtype == torch.int16
    assert arguments[5:7] == (-1, 5)
    assert not constants["PATCHED"] and not constants["KEYED"]
    key = torch.tensor([3, 4])
    augment_triton.augment(images, rows, rows, values, out, **vars(draws), key=key)
    assert launches[1][1][7] is key and launches[1][2]["KEYED"]
    assert constants["BLOCKS"] * constants["BLOCK"] * grid[1] >= 80 * 75 * 3


def test_a_host_tensor_is_refused():
    images = torch.zeros(4, 8, 8, 1, dtype=torch.uint8)
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="backend='triton' on cpu"):
        augment(images, torch.arange(4), byte_map(one, one), backend="triton")
