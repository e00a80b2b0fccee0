"""The Triton augmentation: what it compiles to, and its launch."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed here")

from fasttrain_kernels.augment import augment as augment_module  # noqa: E402
from fasttrain_kernels.augment import triton as augment_triton
from fasttrain_kernels.augment.augment import augment, byte_map  # noqa: E402
from fasttrain_kernels.augment.places import Places, augment_next  # noqa: E402
from fasttrain_kernels.compiled import static  # noqa: E402

NAMES = ["augment", "augment, key on the device", "augment, next of an epoch", "augment, patches"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", static.TARGETS)
def test_compiles_without_spills_to_vector_stores(target, name):
    case = next(case for case in static.cases() if case.name == name)
    row = static._row(case, target)
    assert row["spills"] == row["atomics"] == row["fp64"] == 0
    assert 0 < row["registers"] <= 64
    assert row["occupancy"] >= 0.5
    assert row["stores"].keys() == {128}


def test_a_position_is_written_once_all_threads_have_read_it():
    case = next(case for case in static.cases() if case.name == "augment, next of an epoch")
    for target, kind, load, barrier, store in (
        ("sm_90", "ptx", "ld.global.b64", "bar.sync", "st.global.b64"),
        ("gfx942", "amdgcn", "s_load_dwordx2", "s_barrier", "global_store_dwordx2"),
    ):
        code = static._compile(case, dict(case.constants), target).asm[kind]
        before, after = code[code.index(load) :].split(barrier)
        assert store in after and store not in before, target


def test_the_next_batch_is_one_launch(monkeypatch):
    launches = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **constants: launches.append((grid, arguments, constants))

    monkeypatch.setattr(augment_triton, "_augment_kernel", Kernel())
    monkeypatch.setattr(augment_module, "_choose", lambda device, backend: "triton")
    images = torch.zeros(4, 80, 75, 3, dtype=torch.uint8)
    one = torch.ones(3, dtype=torch.float64)
    order, labels = torch.tensor([3, 1, 2]), torch.tensor([7, 8, 9])
    places = Places(order, labels, torch.arange(2).expand(2, -1).contiguous())
    found, chosen = augment_next(images, places, 1, byte_map(one, one), key=torch.tensor([3, 4]))
    [(grid, arguments, constants)] = launches
    assert grid == (1, 2) and constants["PLACED"] and constants["KEYED"]
    assert found.shape == (1, 3, 80, 75) and chosen.shape == (1,)
    assert arguments[2] is arguments[3] is order and arguments[8] is labels
    assert arguments[13] is places.positions and arguments[14] is chosen and arguments[15] == 2


def test_places_that_do_not_fit_are_refused():
    images, one = torch.zeros(4, 8, 8, 1, dtype=torch.uint8), torch.ones(1, dtype=torch.float64)
    order = torch.arange(4)
    places = Places(order, order.clone(), order[None, :2].contiguous())
    for wrong, size, match in (
        (places._replace(labels=order[:3]), 2, r"int64 \(4,\) on cpu is needed"),
        (places._replace(order=order.int()), 2, "places are torch.int32"),
        (places._replace(positions=order[:2]), 2, r"int64 \(1, 2\)|int64 \(1,\)"),
        (places._replace(positions=order.expand(2, -1)), 2, r"int64 \(1, 4\)"),
        (places._replace(labels=order.to("meta")), 2, "on meta"),
        (places, 3, "a batch of 3: allowed are 1 to 2"),
        (places, 0, "a batch of 0"),
    ):
        with pytest.raises(ValueError, match=match):
            augment_next(images, wrong, size, byte_map(one, one))
    assert places.positions.tolist() == [[0, 1]]


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
