"""Patches of the fused augmentation: bits, the paper's rule, and what is refused."""

import pytest
import torch

from fasttrain_kernels.augment.augment import DTYPES, Patch, augment

from .augment_problems import ALL, problem


def patch_of(dtype, *, size=(3, 4), channels=3, **changes):
    """A patch for ten classes."""
    generator = torch.Generator().manual_seed(7)
    wide = torch.promote_types(dtype, torch.float32)
    shared = torch.randn(*size, channels, generator=generator, dtype=torch.float64).to(wide)
    own = torch.rand(10, *size, channels, generator=generator, dtype=torch.float64).to(wide)
    made = {"top": 2, "left": 1, "share": 0.8, "alone": 0.2, "strength": 1.75, "seed": 2**40 + 3}
    return Patch(shared, own, **(made | changes))


PATCHES = {
    "published": {},
    "another part": {"part": 2},
    "blank": {"blank": True, "share": 1.0},
    "all alone": {"share": 1.0, "alone": 1.0},
    "none": {"share": 0.0},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PATCHES)
def test_bits_of_patches_are_the_references(name, dtype):
    images, rows, values = problem((7, 9, 3), dtype, num_images=400)
    how = {"patch": patch_of(dtype, **PATCHES[name]), "labels": rows % 10, "seed": 5, "epoch": 3}
    for draws in ({}, ALL):
        found = augment(images, rows, values, **how, **draws)
        expected = augment(images, rows, values, backend="reference", **how, **draws)
        assert torch.equal(found, expected)


def test_a_patch_is_what_the_paper_says():
    images, rows, values = problem((7, 9, 3), torch.float64, num_images=4000)
    patch, labels = patch_of(torch.float64), rows % 10
    plain = augment(images, rows, values, backend="reference")
    epochs = [
        augment(images, rows, values, patch=patch, labels=labels, seed=2, epoch=epoch)
        for epoch in (0, 1)
    ]
    kinds = []
    for batch in epochs:
        untouched = (batch == plain).flatten(1).all(1)
        outside = torch.ones(7, 9, dtype=torch.bool)
        outside[2:5, 1:5] = False
        alone = (batch[:, :, outside] == 0).flatten(1).all(1)
        assert torch.equal(batch[~alone][:, :, outside], plain[~alone][:, :, outside])
        base = torch.where(alone[:, None, None, None], 0, plain)[:, :, 2:5, 1:5]
        added = (batch[:, :, 2:5, 1:5] - base).permute(0, 2, 3, 1) - patch.shared
        ratio = (added / patch.own[labels]).flatten(1)
        assert torch.allclose(ratio[~untouched & ~alone].abs(), torch.ones(()).double())
        assert (ratio[alone].std(dim=1) < 1e-9).all()
        strengths = ratio[alone].mean(dim=1).abs()
        assert strengths.max() < 1.75 and abs(strengths.mean() - 1.75 / 2) < 0.06
        signs = (ratio[~untouched].mean(dim=1) > 0).double().mean()
        assert abs(signs - 0.5) < 0.03
        assert abs(untouched.double().mean() - 0.2) < 0.025
        assert abs(alone.double().mean() - 0.16) < 0.025
        kinds.append((untouched, alone, ratio.mean(dim=1) > 0))
    (first, alone, sign), (second, others, other_sign) = kinds
    assert torch.equal(first, second), "which images are patched is fixed"
    assert not torch.equal(alone, others)
    assert 0.4 < (sign == other_sign)[~first].double().mean() < 0.6


def test_which_images_are_patched_depends_on_seed_and_part_alone():
    images, rows, values = problem((7, 9, 3), num_images=300)
    plain = augment(images, rows, values)

    def patched(drawn, **changes):
        patch = patch_of(torch.float32, alone=0.0, **changes)
        batch = augment(images, rows, values, patch=patch, labels=rows % 10, seed=drawn)
        return (batch != plain).flatten(1).any(1)

    assert torch.equal(patched(1), patched(2))
    assert not torch.equal(patched(1), patched(1, part=1))
    assert not torch.equal(patched(1), patched(1, seed=0))


def test_a_patch_that_does_not_fit_is_refused():
    images, rows, values = problem((7, 9, 3))
    for patch, labels, message in (
        (patch_of(torch.float32), None, "labels are none: a patch needs int64"),
        (patch_of(torch.float32, top=5), rows % 10, "covers rows 5..7 and columns 1..4"),
        (patch_of(torch.float32, channels=1), rows % 10, "of shapes"),
        (patch_of(torch.float64), rows % 10, "a patch is torch.float64"),
    ):
        with pytest.raises(ValueError, match=message):
            augment(images, rows, values, patch=patch, labels=labels)
