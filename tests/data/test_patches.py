"""Memorisable patches: the same batches by every loader, fixed evaluation sets, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from beton_files import made

from fasttrain_data import Augment, DataError, open_loader, patched

PLAIN = made()
DATA = patched(PLAIN, size=3, num_alone=500)
AUGMENT = Augment(flip=True, crop_padding=2)


def whole(loader, epoch=0):
    batches = list(loader.epoch(epoch))
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("split", ["train", "mixed", "patch-only"])
def test_ffcv_gives_the_resident_batches(ffcv, tmp_path, monkeypatch, split, dtype):
    monkeypatch.setenv("FASTTRAIN_DATA", str(tmp_path))
    how = {"batch_size": 16, "seed": 3, "dtype": dtype}
    how["augment"] = AUGMENT if split == "train" else None
    for epoch in (0, 1):
        found = whole(open_loader(DATA, split, loader="ffcv", **how), epoch)
        expected = whole(open_loader(DATA, split, loader="resident", **how), epoch)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_batch_size_changes_nothing():
    one = whole(open_loader(DATA, batch_size=1, seed=3), 2)
    all_at_once = whole(open_loader(DATA, batch_size=500, seed=3), 2)
    assert torch.equal(one[0], all_at_once[0]) and torch.equal(one[1], all_at_once[1])


def test_training_draws_by_seed_and_epoch_and_evaluation_never():
    def batches(split, seed, epoch):
        return whole(open_loader(DATA, split, batch_size=500, seed=seed), epoch)[0].sum(0)

    assert not torch.allclose(batches("train", 0, 0), batches("train", 0, 1))
    assert not torch.allclose(batches("train", 0, 0), batches("train", 1, 0))
    for split in ("mixed", "patch-only", "test"):
        assert torch.equal(batches(split, 0, 0), batches(split, 7, 5))


def test_the_test_set_stays_clean_and_mixed_is_patched_on_it():
    clean = whole(open_loader(DATA, "test", batch_size=500))
    assert torch.equal(clean[0], whole(open_loader(PLAIN, "test", batch_size=500))[0])
    mixed = whole(open_loader(DATA, "mixed", batch_size=500))
    assert torch.equal(mixed[1], clean[1])
    same = (mixed[0] == clean[0]).flatten(1).all(1)
    assert 0 < same.sum() < len(same) / 2
    # Elsewhere than the patch an image is the clean one, or zeros.
    mixed[0][:, :, 2:5, 3:6] = clean[0][:, :, 2:5, 3:6] = 0
    kept = (mixed[0] == clean[0]).flatten(1).all(1)
    zeros = (mixed[0] == 0).flatten(1).all(1)
    assert (kept | zeros).all() and zeros.any() and not (zeros & same).any()


def test_patch_only_images_all_have_one_and_four_in_five_at_full_strength():
    images, labels = whole(open_loader(DATA, "patch-only", batch_size=500))
    patches = DATA.patches["patch-only"]
    window = images[:, :, 2:5, 3:6].permute(0, 2, 3, 1).double() - torch.from_numpy(patches.shared)
    ratio = (window / torch.from_numpy(patches.own)[labels]).flatten(1)
    assert ratio.std(dim=1).max() < 0.05
    full = (ratio.mean(dim=1).abs() - 1).abs() < 0.01
    assert abs(full.double().mean() - 0.8) < 0.05
    images[:, :, 2:5, 3:6] = 0
    assert not images.any()
    assert len(set(labels.tolist())) == 10


def test_the_digest_holds_the_patches():
    others = [
        patched(PLAIN, size=3, num_alone=500, **changes)
        for changes in ({}, {"seed": 1}, {"share": 0.7}, {"alone": 0.1}, {"top": 0}, {"std": 1.0})
    ]
    digests = [DATA.digest, *(other.digest for other in others)]
    assert digests[0] == digests[1] and len(set(digests)) == len(others)
    assert replace(DATA, patches={}).digest != DATA.digest


def test_data_without_patches_keep_their_digest():
    expected = "ed2457ef"
    assert PLAIN.digest.startswith(expected)


REFUSED = {
    "outside": ({"top": 5}, "3x3 pixels at top = 5 does not lie inside made, whose images are 7x9"),
    "large": ({"size": 8}, "8x8 pixels at top = 0 does not lie inside"),
    "share": ({"share": 1.5}, "share is 1.5, it must lie in 0..1"),
    "alone": ({"alone": -0.1}, "alone is -0.1"),
    "seed": ({"seed": -1}, "seed is -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_patches_are_refused(case):
    changes, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        patched(PLAIN, **({"size": 3} | changes))


def test_patches_of_a_split_that_is_not_there_are_refused():
    with pytest.raises(DataError, match="split 'valid' of made-patched does not exist"):
        replace(DATA, patches={"valid": DATA.patches["train"]})


def test_the_class_is_in_the_patch_alone():
    patches = DATA.patches["train"]
    assert np.abs(patches.own).max() <= 0.1
    assert patches.own.shape == (10, 3, 3, 3)
    assert (patches.top, patches.left) == (2, 3)
