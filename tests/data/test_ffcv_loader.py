"""The FFCV loader: the same batches as the resident one, and what becomes of FFCV's faults."""

import gc
import os
import resource
import threading

import numba
import numpy as np
import pytest
import torch
from beton_files import NUM_TRAIN, made

from fasttrain_data import (
    Augment,
    DataError,
    DataUnavailable,
    RandomLabels,
    open_loader,
    write_beton,
)

DATA = made()
AUGMENT = Augment(flip=True, crop_padding=2, cutout=3)

pytestmark = pytest.mark.usefixtures("ffcv")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    target = tmp_path_factory.mktemp("beton") / "made.beton"
    write_beton(DATA, target)
    return target


def open_ffcv(path, **changes):
    return open_loader(path, **({"batch_size": 16, "loader": "ffcv", "seed": 3} | changes))


def assert_same_epochs(found, expected):
    for epoch in range(2):
        for (images, labels), (others, other_labels) in zip(
            found.epoch(epoch), expected.epoch(epoch), strict=True
        ):
            assert torch.equal(images, others)
            assert torch.equal(labels, other_labels)
            assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_epochs_are_the_resident_loaders(path, dtype, workers):
    how = {"augment": AUGMENT, "dtype": dtype}
    resident = open_loader(DATA, batch_size=16, seed=3, **how)
    assert_same_epochs(open_ffcv(path, workers=workers, **how), resident)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 25, 103, 500])
def test_every_batch_size_covers_the_test_split(tmp_path, batch_size, channels):
    data = made(channels)
    write_beton(data, tmp_path / "x.beton", split="test")
    loader = open_ffcv(tmp_path / "x.beton", split="test", batch_size=batch_size)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader)
    expected = (data.test_images / 255 - data.mean) / data.std
    images = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1)
    np.testing.assert_allclose(images, expected, atol=2e-6, rtol=0)
    assert torch.cat([labels for _, labels in batches]).tolist() == data.test_labels.tolist()


def test_kept_batches_are_not_overwritten(path):
    kept = list(open_ffcv(path, augment=AUGMENT).epoch(0))
    resident = open_loader(DATA, batch_size=16, seed=3, augment=AUGMENT)
    for (images, labels), (others, other_labels) in zip(kept, resident.epoch(0), strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)


def test_drop_last(path):
    loader = open_ffcv(path, drop_last=True)
    assert [len(labels) for _, labels in loader.epoch(0)] == [16] * 6
    with pytest.raises(DataError, match="batch_size 104 with drop_last leaves no batch"):
        open_ffcv(path, batch_size=104, drop_last=True)


def test_jpg_images_are_close_and_the_same_by_both_loaders(tmp_path):
    smooth = np.linspace(0, 255, 48 * 40, dtype=np.uint8).reshape(1, 48, 40, 1)
    data = made(3, 48, 40)
    data.train_images[:] = smooth
    write_beton(data, tmp_path / "x.beton", mode="jpg")
    streamed = open_ffcv(tmp_path / "x.beton", augment=AUGMENT)
    resident = open_loader(tmp_path / "x.beton", batch_size=16, seed=3, augment=AUGMENT)
    assert "resident" in resident.explain()
    assert_same_epochs(streamed, resident)
    plain, exact = (open_loader(s, batch_size=103) for s in (tmp_path / "x.beton", data))
    errors = next(plain.epoch(0))[0] - next(exact.epoch(0))[0]
    assert 0 < float(errors.abs().mean()) < 4 / 255 / 0.2


def test_two_loaders_at_once_and_labels_of_a_view(path):
    view = RandomLabels(fraction=0.5, seed=1)
    first, second = open_ffcv(path), open_ffcv(path, labels=view, seed=8)
    pairs = list(zip(first.epoch(0), second.epoch(0), strict=True))
    expected = open_loader(DATA, batch_size=16, seed=8, labels=view)
    for (_, (images, labels)), (others, other_labels) in zip(pairs, expected.epoch(0), strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)


def test_a_thousand_abandoned_epochs_leave_no_thread_and_no_memory(path):
    loader = open_ffcv(path, augment=AUGMENT)

    def abandon(count):
        for epoch in range(count):
            batches = loader.epoch(epoch)
            next(batches)
            if epoch % 2:
                batches.close()
            del batches
        gc.collect()
        return threading.active_count(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    threads, memory_kib = abandon(50)
    later_threads, later_memory_kib = abandon(1000)
    assert later_threads == threads
    assert later_memory_kib - memory_kib < 16 * 1024


def test_a_dead_worker_is_an_error_and_not_waited_for(path, monkeypatch):
    loader = open_ffcv(path)
    batches = loader.epoch(0)
    next(batches)
    monkeypatch.setattr(loader._ffcv.memory_manager.context, "start_batch", lambda batch: 1 / 0)
    with pytest.raises(RuntimeError, match="FFCV's thread died: ZeroDivisionError"):
        for _ in batches:
            pass


@pytest.mark.parametrize("change", ["truncated", "written to"])
def test_a_file_changed_under_the_reader_is_an_error(tmp_path, change):
    path = tmp_path / "x.beton"
    write_beton(DATA, path)
    # What comes next is seen, however coarse the clock of times is.
    os.utime(path, (0, 0))
    loader = open_ffcv(path)
    batches = loader.epoch(0)
    next(batches)
    if change == "truncated":
        os.truncate(path, 2**23)
    else:
        with path.open("r+b") as file:
            file.seek(2**23)
            file.write(b"other")
    with pytest.raises(DataError, match="was changed while it was open|could not be read to its"):
        next(batches)
    with pytest.raises(DataError):
        next(loader.epoch(1))


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_replaced_or_deleted_goes_on_being_what_it_was(tmp_path, replaced):
    path = tmp_path / "x.beton"
    write_beton(DATA, path)
    loader = open_ffcv(path, augment=AUGMENT)
    write_beton(made(1), path) if replaced else path.unlink()
    assert_same_epochs(loader, open_loader(DATA, batch_size=16, seed=3, augment=AUGMENT))


def test_a_short_read_is_an_error(path, monkeypatch):
    loader = open_ffcv(path)
    monkeypatch.setattr(loader._beton, "check_unchanged", lambda: None)
    loader._beton.sizes = loader._beton.sizes + 1
    with pytest.raises(DataError, match="could not be read to its end"):
        next(loader.epoch(0))


def test_torch_keeps_its_threads(path):
    before = torch.get_num_threads()
    loader = open_ffcv(path, workers=1)
    for _ in loader.epoch(0):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_numba_goes_on_compiling(path):
    @numba.njit
    def count(array):
        return len(array)

    shared = numba.types.uint8[::1]
    assert count(np.zeros(3, np.uint8)) == 3
    for _ in range(2):
        loader = open_ffcv(path)
        next(loader.epoch(0))
        assert numba.types.uint8[::1] is shared and shared.mutable
    assert count(np.zeros(4, np.uint16)) == 4
    assert len(count.nopython_signatures) == 2


@pytest.mark.parametrize("workers", [0, -1])
def test_too_few_workers_are_refused(path, workers):
    with pytest.raises(DataError, match=f"workers is {workers}, it must be 1 or more"):
        open_ffcv(path, workers=workers)


def test_too_many_workers_are_as_many_as_cores(path):
    loader = open_ffcv(path, workers=1000)
    assert 1 <= loader.workers <= (os.cpu_count() or 1)
    assert f"streamed by {loader.workers} workers" in loader.explain()
    assert sum(len(labels) for _, labels in loader.epoch(0)) == NUM_TRAIN


def test_a_set_in_memory_is_written_once_and_streamed(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTTRAIN_DATA", str(tmp_path))
    how = {"batch_size": 16, "seed": 3, "augment": AUGMENT}
    loader = open_loader(DATA, loader="ffcv", **how)
    [file] = (tmp_path / "beton").glob("*.beton")
    assert str(file) in loader.explain()
    written = file.stat().st_mtime_ns
    assert_same_epochs(open_loader(DATA, loader="ffcv", **how), open_loader(DATA, **how))
    assert file.stat().st_mtime_ns == written


def test_without_a_cache_the_set_cannot_be_streamed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTTRAIN_DATA", str(tmp_path / "file"))
    with pytest.raises(DataUnavailable, match="cannot be made: Not a directory"):
        open_loader(DATA, batch_size=16, loader="ffcv")


def test_a_loader_is_refused_in_a_fork(path):
    loader = open_ffcv(path)
    child = os.fork()
    if child == 0:
        try:
            loader.epoch(0)
        except DataError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
def test_a_gpu_gets_the_same_batches(path):
    expected = open_loader(DATA, batch_size=16, seed=3, augment=AUGMENT)
    found = open_ffcv(path, augment=AUGMENT, device="cuda")
    for (images, labels), (others, other_labels) in zip(
        found.epoch(1), expected.epoch(1), strict=True
    ):
        assert torch.equal(images.cpu(), others) and torch.equal(labels.cpu(), other_labels)
