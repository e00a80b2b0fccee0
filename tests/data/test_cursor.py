"""The cursor gives a resident loader's batches, and nothing of them comes from the host."""

import numpy as np
import pytest
import torch

from fasttrain_data import Augment, DataError, ImageData, RandAugment, open_loader
from fasttrain_data.cursor import Cursor
from fasttrain_data.patches import Patches

NUM = 37


def make(floats: bool = False, patches: Patches | None = None) -> ImageData:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM, 7, 9, 3), dtype=np.uint8)
    return ImageData(
        name="made",
        train_images=images.astype(np.float32) if floats else images,
        train_labels=rng.integers(0, 5, NUM),
        test_images=(images.astype(np.float32) if floats else images)[:3],
        test_labels=np.arange(3),
        class_names=tuple("abcde"),
        mean=(0.0,) * 3 if floats else (0.4, 0.5, 0.6),
        std=(1.0,) * 3 if floats else (0.2,) * 3,
        patches={} if patches is None else {"train": patches},
    )


def patched() -> ImageData:
    rng = np.random.default_rng(1)
    shared, own = rng.normal(size=(2, 3, 3)), rng.normal(size=(5, 2, 3, 3))
    return make(
        patches=Patches(
            shared=shared, own=own, top=1, left=2, share=0.5, alone=0.3, strength=1.5, seed=4
        )  # fmt: skip
    )


DRAWS = Augment(flip=True, crop_padding=2, cutout=3)
KINDS = {
    "pictures": (make(), DRAWS, 2**64 - 3),
    "rand": (make(), Augment(flip=True, rand=RandAugment(magnitude=14)), 2**63 + 2**40),
    "absolute": (make(), Augment(rand=RandAugment(policy="absolute", num_ops=3)), 5),
    "floats": (make(floats=True), None, 5),
    "patched": (patched(), DRAWS, 5),
}


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [8, NUM, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_loaders(kind, batch_size, drop_last):
    data, augment, seed = KINDS[kind]
    drop_last = drop_last and batch_size <= NUM
    options = {"seed": seed, "augment": augment, "drop_last": drop_last}
    loader = open_loader(data, batch_size=batch_size, **options)
    cursor = Cursor(loader)
    for epoch in (0, 2, 1, 2**32 - 1):
        cursor.begin_(epoch)
        batches = list(loader.epoch(epoch))
        assert cursor.sizes() == [len(labels) for _, labels in batches]
        for images, labels in batches:
            found = cursor.next(len(labels))
            assert torch.equal(found[0], images) and torch.equal(found[1], labels)
            assert found[0].stride() == images.stride()


def test_an_epoch_can_begin_anywhere():
    data, augment, seed = KINDS["pictures"]
    loader = open_loader(data, batch_size=8, seed=seed, augment=augment)
    cursor = Cursor(loader)
    cursor.begin_(3, batch=2)
    batches = list(loader.epoch(3))
    for images, labels in batches[2:]:
        found = cursor.next(len(labels))
        assert torch.equal(found[0], images) and torch.equal(found[1], labels)
    cursor.rewind_()
    assert torch.equal(cursor.next(8)[0], batches[0][0])


def test_all_that_changes_lies_in_the_same_memory():
    cursor = Cursor(open_loader(KINDS["pictures"][0], batch_size=8, augment=DRAWS))
    held = [value for value in vars(cursor).values() if isinstance(value, torch.Tensor)]
    places = [tensor.data_ptr() for tensor in held]
    for epoch in range(2):
        cursor.begin_(epoch)
        cursor.next(8)
    now = [value for value in vars(cursor).values() if isinstance(value, torch.Tensor)]
    assert all(a is b for a, b in zip(held, now, strict=True))
    assert places == [tensor.data_ptr() for tensor in now]


def test_epochs_out_of_range_are_refused():
    cursor = Cursor(open_loader(make(), batch_size=8))
    with pytest.raises(DataError, match="epoch is"):
        cursor.begin_(2**32)


def test_a_loader_of_another_seed_shares_the_images():
    data = make()
    first = open_loader(data, batch_size=8, seed=1, augment=DRAWS)
    second = first.variant(2)
    assert second._images is first._images and second.labels is first.labels
    fresh = open_loader(data, batch_size=8, seed=2, augment=DRAWS)
    for mine, theirs in zip(second.epoch(1), fresh.epoch(1), strict=True):
        assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])
    assert first.settings.seed == 1
    with pytest.raises(DataError, match="seed is -1"):
        first.variant(-1)
