"""The Triton augmentation against the reference; run by `test_triton_kernels.py`, or by hand:

TRITON_INTERPRET=1 pytest tests/kernels/augment_triton_cases.py
"""

import itertools
import os

import pytest
import torch

from fasttrain_kernels.augment import augment as augment_module
from fasttrain_kernels.augment import triton as augment_triton
from fasttrain_kernels.augment.augment import Patch, augment, byte_map, num_parts, signed
from fasttrain_kernels.augment.places import Places, augment_next

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"

SHAPES = [(7, 9, 3), (8, 8, 1), (32, 32, 3), (80, 75, 3)]
"""The last one takes two programs per image."""

DRAWS = [
    {"flip": flip, "padding": padding, "cutout": cutout}
    for flip, padding, cutout in itertools.product((False, True), (0, 3), (0, 5))
]


def pair(shape, dtype, *, seed, epoch, patch=None, keyed=False, **draws):
    """The batch of the kernel, and of the reference on the host.

    `keyed` gives the kernel seed and epoch as a tensor, and others as numbers.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, *shape), dtype=torch.uint8, generator=generator)
    rows = torch.tensor([5, 0, 3] * (1 if patch is None else 8))
    samples = torch.arange(len(rows)) * 77
    samples[0] = 2**33 + 1
    how = {} if patch is None else {"patch": patch, "labels": rows}
    mean = torch.linspace(0.2, 0.6, shape[2], dtype=torch.float64)
    values = byte_map(mean, mean / 2, dtype)
    key = {"seed": seed, "epoch": epoch}
    expected = augment(
        images, rows, values, samples=samples, backend="reference", **key, **draws, **how
    )
    out = torch.full((len(rows), *shape), float("nan"), dtype=dtype, device=DEVICE)
    how = {name: value.to(DEVICE) for name, value in how.items()}
    given = (given.to(DEVICE) for given in (images, rows, samples, values))
    if keyed:
        words = torch.tensor([signed(seed), epoch], device=DEVICE)
        key = {"seed": seed ^ 1, "epoch": epoch ^ 1, "key": words}
    augment_triton.augment(*given, out, **key, **draws, **how)
    return out.permute(0, 3, 1, 2).cpu(), expected


@pytest.mark.parametrize("draws", DRAWS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_are_the_references(shape, draws):
    found, expected = pair(shape, torch.float32, seed=3, epoch=2, **draws)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_type(dtype):
    found, expected = pair((7, 9, 3), dtype, seed=0, epoch=0, **DRAWS[-1])
    assert found.dtype == dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 + 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("epoch", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("keyed", [False, True])
def test_seeds_and_epochs_of_any_size(keyed, seed, epoch):
    key = {"seed": seed, "epoch": epoch, "keyed": keyed}
    found, expected = pair((7, 9, 3), torch.float32, **key, **DRAWS[-1])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("blank", "seed"), [(False, 3), (True, 2**64 - 1)])
def test_patches_are_the_references(blank, seed, dtype):
    generator = torch.Generator().manual_seed(2)
    wide = torch.promote_types(dtype, torch.float32)
    own = torch.randn(6, 3, 4, 3, generator=generator, dtype=torch.float64).to(wide)
    patch = Patch(own[0] * 2, own, 2, 5, 0.7, 0.4, 1.75, seed - 1, part=1, blank=blank)
    for draws in (DRAWS[0], DRAWS[-1]):
        found, expected = pair((7, 9, 3), dtype, seed=seed, epoch=4, patch=patch, **draws)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("shape", [(7, 9, 3), (80, 75, 3)], ids=str)
def test_an_epoch_batch_by_batch_is_the_references(monkeypatch, shape, patched):
    """The last batch is a short one, and the epoch after begins anew."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, *shape), dtype=torch.uint8, generator=generator)
    mean = torch.linspace(0.2, 0.6, 3, dtype=torch.float64)
    values = byte_map(mean, mean / 2, torch.float32)
    patch, own = None, torch.rand(5, 2, 3, 3, generator=generator)
    if patched:
        patch = Patch(own[0] * 2, own, 1, 2, 0.7, 0.4, 1.75, 3)
    key = torch.tensor([3, 5])
    order, labels = (torch.randperm(5, generator=generator) for _ in range(2))
    offsets = torch.arange(2).expand(num_parts(images), -1).contiguous()
    start = Places(order, labels, offsets)

    def epochs(backend, device):
        monkeypatch.setattr(augment_module, "_choose", lambda *_: backend)
        places = Places(*(tensor.to(device, copy=True) for tensor in start))
        draws = {"flip": True, "padding": 2, "key": key.to(device)}
        draws["patch"] = None if patch is None else patch.to(device)
        found = []
        for _ in range(2):
            places.positions.copy_(offsets)
            for size in (2, 2, 1):
                batch = augment_next(images.to(device), places, size, values.to(device), **draws)
                found += [tensor.cpu() for tensor in batch]
                assert (places.positions[:, :size] > 1).all()
        return found

    for mine, theirs in zip(epochs("triton", DEVICE), epochs("reference", "cpu"), strict=True):
        assert torch.equal(mine, theirs)
