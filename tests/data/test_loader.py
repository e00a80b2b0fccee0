"""Which loader is chosen and why, label views, and files that are resident."""

import os
import sys

import numpy as np
import pytest
import torch
from beton_files import NUM_TRAIN, made

from fasttrain_data import (
    Augment,
    DataError,
    DataUnavailable,
    MappedLabels,
    RandomLabels,
    open_loader,
    relabelled,
    write_beton,
)
from fasttrain_data import loader as loader_module

DATA = made()
AUGMENT = Augment(flip=True, crop_padding=2)


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "made.beton"
    write_beton(DATA, target)
    return target


def labels_of(loader, epoch=0):
    return torch.cat([labels for _, labels in loader.epoch(epoch)])


def test_a_raw_file_can_be_resident(path):
    found = open_loader(path, batch_size=16, augment=AUGMENT)
    expected = open_loader(DATA, batch_size=16, augment=AUGMENT)
    for (images, labels), (others, other_labels) in zip(
        found.epoch(1), expected.epoch(1), strict=True
    ):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)


def test_explain_says_which_and_why(path, monkeypatch):
    assert open_loader(DATA, batch_size=8).explain() == (
        "resident: made train, 0.0 MiB of uint8 on cpu; the set is in memory already"
    )
    monkeypatch.setattr(loader_module, "free_bytes", lambda device: 64 * 2**20)
    text = open_loader(path, batch_size=8).explain()
    assert text == (
        f"resident: {path} train, 0.0 MiB of uint8 on cpu; 0.0 MiB of 64 MiB free on cpu,"
        " at most 50% are allowed"
    )
    asked = open_loader(path, batch_size=8, loader="resident").explain()
    assert asked.endswith("as asked for")


def test_a_set_too_large_for_the_device_is_streamed(path, monkeypatch, ffcv):
    monkeypatch.setattr(loader_module, "free_bytes", lambda device: 2 * NUM_TRAIN * 7 * 9 * 3 - 1)
    loader = open_loader(path, batch_size=8)
    assert loader.explain().startswith(f"ffcv: {path}, ")
    assert "too large to be resident" in loader.explain()
    monkeypatch.setattr(loader_module, "free_bytes", lambda device: 2 * NUM_TRAIN * 7 * 9 * 3)
    assert open_loader(path, batch_size=8).explain().startswith("resident: ")


def test_free_memory_is_positive():
    assert 0 < loader_module.free_bytes(torch.device("cpu")) < 2**50


def test_ffcv_that_is_not_installed_says_how_to_install_it(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ffcv", None)
    with pytest.raises(DataUnavailable, match="FFCV cannot be used .*ffcv.*apt-get .* pip"):
        open_loader(path, batch_size=8, loader="ffcv")
    with pytest.raises(DataUnavailable, match="apt-get install"):
        open_loader(DATA, batch_size=8, loader="ffcv")


REFUSED = {
    "loader": ({"loader": "residnt"}, "loader is 'residnt', .*; did you mean 'resident'?"),
    "split": ({"split": "test"}, "holds the split 'train', not 'test'"),
    "workers": ({"workers": 0}, "workers is 0"),
    "verify": ({"verify": "some"}, "verify is 'some'"),
    "padding": ({"augment": Augment(crop_padding=7)}, "crop_padding is 7, images of .* are 7x9"),
    "cutout": ({"augment": Augment(cutout=8)}, "cutout is 8, images of .* are 7x9"),
    "batch": ({"batch_size": 0}, "batch_size is 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused(path, case):
    changes, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        open_loader(path, **({"batch_size": 8} | changes))


def test_negative_cutout_is_refused():
    with pytest.raises(DataError, match="cutout is -1"):
        Augment(cutout=-1)


def test_random_labels_are_a_function_of_seed_and_sample():
    big = made(1, 1, 1, 20_000)
    view = RandomLabels(fraction=0.4, seed=5)
    changed = relabelled(big, view)
    assert changed.train_images is big.train_images
    assert changed.digest != big.digest
    different = float((changed.train_labels != big.train_labels).mean())
    # Of those drawn one in ten stays: 0.36, five standard deviations are 0.017.
    assert abs(different - 0.36) < 0.017
    assert np.bincount(changed.train_labels, minlength=10).min() > 1700
    part = view.apply(big.train_labels[:100], 10)
    assert np.array_equal(part, changed.train_labels[:100])
    assert not np.array_equal(part, RandomLabels(fraction=0.4, seed=6).apply(part, 10))


@pytest.mark.parametrize("fraction", [0, 1])
def test_no_label_or_every_label_is_drawn(fraction):
    labels = np.zeros(1000, np.int64)
    drawn = RandomLabels(fraction=fraction).apply(labels, 2)
    assert fraction * 400 <= drawn.sum() <= fraction * 600


def test_labels_are_mapped():
    view = MappedLabels(classes=(1, 0, *range(2, 10)))
    loader = open_loader(DATA, "test", batch_size=8, labels=view)
    expected = [{0: 1, 1: 0}.get(label, label) for label in DATA.test_labels.tolist()]
    assert labels_of(loader).tolist() == expected
    assert relabelled(DATA, view, "test").test_labels.tolist() == expected
    assert DATA.test_labels[0] == 0


def test_a_view_serves_files_and_memory_alike(path):
    view = RandomLabels(fraction=0.5)
    found, expected = (open_loader(s, batch_size=8, labels=view) for s in (path, DATA))
    assert torch.equal(labels_of(found), labels_of(expected))
    assert not torch.equal(labels_of(found), labels_of(open_loader(path, batch_size=8)))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (MappedLabels(classes=(0, 1)), "classes has 2 labels for 10 classes"),
        (MappedLabels(classes=(10,) * 10), r"classes holds 10, labels must lie in 0\.\.9"),
    ],
)
def test_maps_that_do_not_fit_are_refused(view, message):
    with pytest.raises(DataError, match=message):
        relabelled(DATA, view)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_fractions_outside_are_refused(fraction):
    with pytest.raises(DataError, match="it must lie in 0..1"):
        RandomLabels(fraction=fraction)


def test_a_loader_is_refused_in_a_fork():
    loader = open_loader(DATA, batch_size=8)
    child = os.fork()
    if child == 0:
        try:
            loader.epoch(0)
        except DataError as error:
            os._exit(7 if "open it where it is used" in str(error) else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_resident_memory_is_the_set_and_little_more():
    import resource

    data = made(3, 32, 32, 20_000)
    loader = open_loader(data, batch_size=128, augment=AUGMENT)
    next(loader.epoch(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in loader.epoch(1):
        pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
