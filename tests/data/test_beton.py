"""FFCV files: what is written, what is refused; nothing here needs FFCV but where it says so."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from beton_files import NUM_TRAIN, made

from fasttrain_data import Beton, DataError, DataUnavailable, write_beton
from fasttrain_data.ffcv.layout import HEADER, INDEX_START
from fasttrain_data.ffcv.manifest import manifest_path

DATA = made()


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "made.beton"
    write_beton(DATA, target)
    return target


def age(path):
    """Let the file be an old one: what comes next is seen, however coarse the clock of times is."""
    os.utime(path, (0, 0))


def damage(path, position, content=None):
    """Overwrite bytes in place, or flip one bit of one."""
    with path.open("r+b") as file:
        if content is None:
            file.seek(position)
            content = bytes([file.read(1)[0] ^ 4])
        file.seek(position)
        file.write(content)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_raw_file_gives_back_every_byte(tmp_path, channels):
    data = made(channels)
    for split in ("train", "test"):
        manifest = write_beton(data, tmp_path / "x.beton", split=split)
        beton = Beton(tmp_path / "x.beton")
        images, labels = data.split(split)
        assert np.array_equal(beton.images(), images)
        assert np.array_equal(beton.labels, labels)
        assert beton.manifest == manifest
        assert (manifest.mean, manifest.std) == (data.mean, data.std)
        assert (manifest.split, manifest.class_names) == (split, data.class_names)


def test_images_lie_in_several_pages(tmp_path):
    data = made(3, 300, 301, 64)
    write_beton(data, tmp_path / "x.beton")
    beton = Beton(tmp_path / "x.beton", "fast")
    assert len(set((beton.pointers // 2**23).tolist())) == 3
    assert np.array_equal(beton.images(), data.train_images)


def test_files_are_reproducible(path, tmp_path):
    other = tmp_path / "again.beton"
    write_beton(DATA, other)
    assert other.read_bytes() == path.read_bytes()
    assert manifest_path(other).read_text() == manifest_path(path).read_text()
    write_beton(DATA, other)
    assert sorted(tmp_path.iterdir()) == sorted(
        [*(path, manifest_path(path)), *(other, manifest_path(other))]
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_bytes_are_those_of_ffcvs_writer(tmp_path, channels, ffcv):
    from ffcv.fields import IntField, NDArrayField

    data = made(channels)
    write_beton(data, tmp_path / "ours.beton")
    shape = data.train_images.shape[1:]
    fields = {"image": NDArrayField(np.dtype(np.uint8), shape), "label": IntField()}
    writer = ffcv.writer.DatasetWriter(str(tmp_path / "its.beton"), fields, num_workers=1)
    writer.from_indexed_dataset(list(zip(data.train_images, data.train_labels, strict=True)))
    assert (tmp_path / "ours.beton").read_bytes() == (tmp_path / "its.beton").read_bytes()


def test_a_wrong_mode_is_refused(tmp_path):
    with pytest.raises(DataError, match="mode is 'png', allowed are raw, jpg"):
        write_beton(DATA, tmp_path / "x.beton", mode="png")
    with pytest.raises(DataError, match="mode 'jpg' needs 3 channels"):
        write_beton(made(1), tmp_path / "x.beton", mode="jpg")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    for target in (tmp_path / "no" / "x.beton", tmp_path / "file" / "x.beton"):
        with pytest.raises(DataUnavailable, match=f"{target} cannot be written"):
            write_beton(DATA, target)
    (tmp_path / "folder.beton").mkdir()
    with pytest.raises(DataUnavailable, match="Is a directory"):
        write_beton(DATA, tmp_path / "folder.beton")
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder.beton"}


IN_A_PROCESS = """
import sys
sys.path.insert(0, {folder!r})
from beton_files import made
from fasttrain_data import DataUnavailable, write_beton
{code}
"""


def run(code, **options):
    text = IN_A_PROCESS.format(folder=os.path.dirname(__file__), code=code)
    return subprocess.Popen([sys.executable, "-c", text], text=True, **options)


def test_a_full_disk_leaves_the_old_file(path):
    before = path.read_bytes()
    code = f"""
try:
    write_beton(made(num_train=100), {str(path)!r})
except DataUnavailable as error:
    print(error)
"""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    process = run(code, stdout=subprocess.PIPE, preexec_fn=limit)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    assert output == f"{path} cannot be written: File too large\n"
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == [path, manifest_path(path)]


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(path):
    before = path.read_bytes()
    code = f"""
class Slow:
    def __len__(self):
        return 10
    def __getitem__(self, index):
        if index == 5:
            print("ready", flush=True)
            sys.stdin.read()
        return made().train_images[index], 0
write_beton(Slow(), {str(path)!r})
"""
    process = run(code, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=600)
    assert path.read_bytes() == before
    Beton(path)
    assert len(list(path.parent.iterdir())) == 3
    write_beton(DATA, path)
    assert sorted(path.parent.iterdir()) == [path, manifest_path(path)]


def flip(position):
    return lambda path: damage(path, position)


def cut(keep):
    return lambda path: path.write_bytes(keep(path.read_bytes()))


def edit(**changes):
    def change(path):
        where = manifest_path(path)
        where.write_text(json.dumps(json.loads(where.read_text()) | changes))

    return change


FIRST_LABEL = INDEX_START + 8
SIZE = 8 * 2**20
FAULTS = {
    "missing": (lambda p: p.unlink(), "cannot be read: No such file"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "is no file"),
    "a pipe": (lambda p: (p.unlink(), os.mkfifo(p)), "is no file"),
    "empty": (cut(lambda b: b""), "is empty"),
    "tail cut": (cut(lambda b: b[:-100]), "truncated or another file"),
    "head cut": (cut(lambda b: b[100:]), "truncated or another file"),
    "half": (cut(lambda b: b[: len(b) // 2]), "truncated or another file"),
    "foreign": (cut(lambda b: b"\x89PNG" + bytes(5000)), "truncated or another file"),
    "foreign of the size": (cut(lambda b: bytes(len(b))), "damaged or not the file"),
    "version flipped": (flip(0), "damaged or not the file"),
    "bit of the header": (flip(HEADER.itemsize + 40), "damaged or not the file"),
    "bit of a pointer": (flip(INDEX_START), "damaged or not the file"),
    "bit of a label": (flip(FIRST_LABEL), "damaged or not the file"),
    "bit of an allocation": (flip(2 * SIZE + 17), "damaged or not the file"),
    "no manifest": (lambda p: manifest_path(p).unlink(), "has no manifest made.beton.json"),
    "manifest no JSON": (lambda p: manifest_path(p).write_text("{"), "cannot be read: Expecting"),
    "manifest of another format": (edit(format=9), "is of format 9, this version reads format 1"),
    "manifest a list": (lambda p: manifest_path(p).write_text("[]"), "is of format None"),
    "manifest with a key": (edit(extra=1), "is damaged: extra missing or unknown"),
    "manifest with a wrong shape": (edit(shape=[7, 9]), r"is damaged: shape is \[7, 9\]"),
    "manifest without a std": (edit(std=[0.1, 0.2, 0]), "is damaged: std"),
    "manifest with a wrong type": (edit(num_samples="3"), "is damaged: num_samples"),
    "manifest of another file": (edit(num_samples=50), "damaged or not the file"),
}


@pytest.mark.parametrize("verify", ["fast", "full"])
@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_one_clear_line(path, case, verify):
    change, message = FAULTS[case]
    change(path)
    with pytest.raises(DataError, match=message) as caught:
        Beton(path, verify)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_flipped_bit_of_an_image_is_found_by_the_full_check(path):
    damage(path, 2**23 + 1000)
    Beton(path, "fast")
    with pytest.raises(DataError, match="its checksum is not the manifest's"):
        Beton(path, "full")


UNCHECKED = {
    "version": (0, (3).to_bytes(2, "little"), "is an FFCV file of format 3"),
    "number of samples": (8, (50).to_bytes(8, "little"), "not of the manifest's number"),
    "allocations": (16, (2**62).to_bytes(8, "little"), "allocations are said to begin"),
    "pointer": (INDEX_START, (2**60).to_bytes(8, "little"), "where none can"),
    "label": (FIRST_LABEL, (10).to_bytes(8, "little"), r"labels must lie in 0\.\.9"),
    "negative label": (FIRST_LABEL, (-1).to_bytes(8, "little", signed=True), "labels must lie"),
    "size of a sample": (2 * SIZE + 16, (2).to_bytes(8, "little"), "where none can"),
}


@pytest.mark.parametrize("case", UNCHECKED)
def test_without_checksums_nothing_is_read_from_where_it_cannot_be(path, case):
    position, content, message = UNCHECKED[case]
    damage(path, position, content)
    with pytest.raises(DataError, match=message):
        Beton(path, "off")


def test_a_file_is_what_it_was_when_it_was_opened(path):
    beton = Beton(path)
    write_beton(made(1), path)
    assert np.array_equal(beton.images(), DATA.train_images)
    path.unlink()
    beton.check_unchanged()
    assert np.array_equal(beton.images(), DATA.train_images)


@pytest.mark.parametrize("change", [flip(2**23), lambda p: os.truncate(p, 2**23 + 100)])
def test_a_file_changed_in_place_is_an_error(path, change):
    age(path)
    beton = Beton(path)
    change(path)
    with pytest.raises(DataError, match="was changed while it was open|ends too early"):
        beton.images()


def test_an_unknown_way_to_verify_is_refused(path):
    with pytest.raises(DataError, match="verify is 'maybe', allowed are fast, full, off"):
        Beton(path, "maybe")


def test_descriptors_are_closed(path):
    # What others have left open may be closed meanwhile: those of this file count.
    for _ in range(20):
        Beton(path)
    left = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert not [name for name in left if path.parent.resolve() in Path(name).parents]


def test_the_number_of_samples_is_that_of_the_set(path):
    assert Beton(path).split().shape == (NUM_TRAIN, 7, 9, 3)
