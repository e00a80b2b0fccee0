"""The launch path as a GPU would see it, with a stand-in for the driver: everything but the run.

Kernels are compiled for what the launchers hand over (dtypes, None, integers of 1), their options
are accepted, and every launch is recorded.
"""

from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed here")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402

from fasttrain_kernels.step.layout import make_layout  # noqa: E402
from fasttrain_kernels.step.triton import (  # noqa: E402
    adam_step,
    group_sums,
    launch,
    scale,
    sgd_step,
    sphere_step,
    totals,
)
from fasttrain_kernels.step.triton.launch import (  # noqa: E402
    MAX_ADDRESS_TABLES,
    NUM_RESERVED,
    blocks_of,
)

TARGETS = {"cuda": GPUTarget("cuda", 90, 32), "hip": GPUTarget("hip", "gfx942", 64)}


class Driver:
    """Compiles for a target, loads nothing, and records launches."""

    # Triton keeps a kernel's launcher, whatever driver comes later: one list for all.
    launches: list[tuple[str, int]] = []

    def __init__(self, target, device):
        self.target, self.device = target, device
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": 65536},
            load_binary=lambda *arguments: (object(), object(), 0, 0, 1024),
        )

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.device

    def get_current_stream(self, device):
        return 0

    def launcher_cls(self, source, metadata):
        def launch(*arguments):
            assert metadata.num_warps * metadata.warp_size in (128, 256, 512, 1024)
            self.launches.append((metadata.name, arguments[0]))

        return launch


@pytest.fixture(params=TARGETS)
def launches(request, monkeypatch):
    # Triton keeps its compiled kernels by device number.
    stand_in = Driver(TARGETS[request.param], list(TARGETS).index(request.param))
    monkeypatch.setattr(driver, "_active", stand_in)
    monkeypatch.setattr(torch.version, "hip", "stand-in" if request.param == "hip" else None)
    stand_in.launches.clear()
    return stand_in.launches


def tensors(shapes, dtype=torch.float32):
    return [torch.zeros(shape, dtype=dtype) for shape in shapes]


SHORT, LONG = [(4, 16, 3, 3), (1,)], [(4, 16, 3, 3), (1, 9000)]


@pytest.mark.parametrize("shapes", [SHORT, LONG], ids=["short", "long"])
def test_sphere_step(launches, shapes):
    layout = make_layout(tensors(shapes))
    thetas, grads = tensors(shapes), tensors(shapes, torch.bfloat16)
    one, each = torch.ones(1), torch.ones(layout.num_groups)
    num_blocks, num_long = len(blocks_of(layout).blocks), int(shapes is LONG)

    sphere_step.sphere_step_(thetas, grads, None, layout, one, one, None)
    assert launches == [
        ("_step_kernel", num_blocks),
        ("_apply_kernel", num_blocks + num_long),
    ]
    launches.clear()
    sphere_step.sphere_step_(thetas, grads, None, layout, one, one, torch.ones(1))
    assert launches == [
        ("_step_kernel", num_blocks),
        ("_finish_kernel", num_long + 1),
    ]
    launches.clear()
    sphere_step.sphere_step_(
        thetas, grads, tensors(shapes), layout, each, each, None,
        momentum=0.9, nesterov=True, scope="group",
    )  # fmt: skip
    assert (
        launches
        == [
            ("_step_kernel", num_blocks),
            ("_apply_kernel", num_blocks + num_long),
        ][: 1 + num_long]
    )


@pytest.mark.parametrize("shapes", [SHORT, LONG], ids=["short", "long"])
def test_copies_take_no_launch(launches, shapes):
    layout = make_layout(tensors(shapes))
    thetas, grads = tensors(shapes), tensors(shapes, torch.bfloat16)
    copies = [tensors(shapes[:1], torch.bfloat16)[0], None]
    one, each = torch.ones(1), torch.ones(layout.num_groups)
    found = []
    for own in ({}, {"copies": copies}):
        launches.clear()
        sphere_step.sphere_step_(thetas, grads, None, layout, one, one, None, **own)
        sphere_step.sphere_step_(
            thetas, grads, None, layout, each, each, None, scope="group", **own
        )
        sgd_step.sgd_step_(thetas, grads, None, layout, one, **own)
        scale.scale_(thetas, layout, each, None, **own)
        moments = [*tensors(shapes), *tensors(shapes)]
        rest = {"betas": (0.9, 0.99), "eps": 1e-8, **own}
        steps = torch.ones(len(shapes), 2)
        adam_step.adam_step_(thetas, grads, moments, layout, one, steps, **rest)
        found.append(list(launches))
    assert found[0] == found[1] and len(found[0]) == (7 if shapes is SHORT else 9)


@pytest.mark.parametrize("shapes", [SHORT, LONG], ids=["short", "long"])
def test_the_others(launches, shapes):
    layout = make_layout(tensors(shapes))
    thetas, grads = tensors(shapes), tensors(shapes)
    num_blocks, finish = len(blocks_of(layout).blocks), [("_finish_kernel", 1)] * (shapes is LONG)

    sgd_step.sgd_step_(thetas, grads, None, layout, torch.ones(1), weight_decay=1e-4)
    assert launches == [("_sgd_kernel", num_blocks), *finish]
    launches.clear()
    # Nobody asks for the sums: nothing adds them up.
    sgd_step.sgd_step_(thetas, grads, None, layout, torch.ones(1), track=False)
    assert launches == [("_sgd_kernel", num_blocks)]
    launches.clear()
    totals.totals(torch.ones(3, layout.num_groups), layout)
    assert launches == [("_totals_kernel", 1)]
    launches.clear()
    group_sums.group_sums(thetas, None, layout)
    assert launches == [("_sums_kernel", num_blocks), *finish]
    launches.clear()
    factor = torch.ones(layout.num_groups)
    scale.scale_(thetas, layout, factor, tensors(shapes, torch.bfloat16))
    assert launches == [("_scale_kernel", num_blocks)]


def test_address_tables_are_kept_and_bounded():
    layout = make_layout(tensors(SHORT))
    blocks, thetas = blocks_of(layout), tensors(SHORT)
    table = blocks.table(thetas)
    assert table.tolist() == [theta.data_ptr() for theta in thetas]
    assert blocks.table(thetas) is table
    moving = [tensors(SHORT) for _ in range(2 * MAX_ADDRESS_TABLES)]
    for each in moving:
        blocks.table(each)
        # The parameters' own is used in every step: gradients that move do not push it out.
        assert blocks.table(thetas) is table
    assert len(blocks.addresses) == MAX_ADDRESS_TABLES
    assert blocks.table(moving[0]).tolist() == [tensor.data_ptr() for tensor in moving[0]]


def test_a_capture_takes_memory_that_was_there_before(monkeypatch):
    layout = make_layout(tensors(SHORT))
    blocks, thetas = blocks_of(layout), tensors(SHORT)
    monkeypatch.setattr(launch, "is_capturing", lambda _: True)
    with pytest.raises(RuntimeError, match="take a step outside of the capture first"):
        blocks.table(thetas)
    monkeypatch.undo()
    table, ready = blocks.table(thetas), [host.data_ptr() for host in blocks.reserved]
    assert len(ready) == NUM_RESERVED
    monkeypatch.setattr(launch, "is_capturing", lambda _: True)
    monkeypatch.setattr(launch.Blocks, "_host", lambda *_: pytest.fail("allocated in a capture"))
    assert blocks.table(thetas) is table
    new = tensors(SHORT)
    blocks.table(new)
    host, device = blocks.captured[-1]
    assert host.data_ptr() in ready and device.tolist() == [tensor.data_ptr() for tensor in new]
    # What a graph has taken it keeps: the addresses of one capture are not those of another.
    assert blocks.table(new) is not device
    # Outside of captures the reserve fills up again.
    monkeypatch.undo()
    blocks.table(thetas)
    assert len(blocks.reserved) == NUM_RESERVED


def test_blocks_cover_every_chunk_once_by_model():
    shapes = [(12, 3000), (6, 9), (3, 20000), (3, 0)]
    layout = make_layout(tensors(shapes), num_models=3)
    blocks = blocks_of(layout)
    chunks = [c for first, last, _ in blocks.blocks.tolist() for c in range(first, last)]
    assert sorted(chunks) == list(range(layout.num_chunks))
    for first, last, model in blocks.blocks.tolist():
        models = layout.model_of_group[layout.group_of_chunk[first:last].long()]
        assert models.tolist() == [model] * (last - first)
        assert len(set(layout.chunks[first:last, 0].tolist())) == 1
    bounds = blocks.first_block_of_model.tolist()
    for model in range(3):
        part = blocks.blocks[bounds[model] : bounds[model + 1], 2]
        assert part.tolist() == [model] * len(part) and len(part)
