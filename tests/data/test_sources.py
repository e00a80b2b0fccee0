"""Data sets of torchvision from archives put by hand, no network."""

import gzip
import hashlib
import io
import pickle
import socket
import tarfile
import threading
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from filelock import FileLock

from fasttrain_data import DataUnavailable, cache_dir, load
from fasttrain_data.sources.named import load_here

PER_FILE = 20

# torchvision extracts without naming a filter, which Python 3.12 and 3.13 warn about.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Python 3.14 will, by default, filter extracted tar archives:DeprecationWarning"
)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Make every download fail as it does without a network, and count the tries."""
    tries = []

    def fail(url, *args, **kwargs):
        tries.append(url)
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", fail)
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", fail)
    return tries


class PublishedPickler(pickle.Pickler):
    """Writes the flag `align` as the integer that Python 2 wrote into the published files.

    Every numpy 2.4 warns about it where no flag follows; with one only some releases do.
    """

    def reducer_override(self, obj):
        if isinstance(obj, np.dtype):
            return np.dtype, (obj.str[1:], 0), obj.__reduce__()[2]
        return NotImplemented


def pickled(content) -> bytes:
    buffer = io.BytesIO()
    PublishedPickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def put_cifar(monkeypatch, root: Path, name: str) -> np.ndarray:
    """Put a small archive of the official layout into `root`; return its train images (NHWC)."""
    rng = np.random.default_rng(0)
    dataset_class = {
        "cifar10": torchvision.datasets.CIFAR10,
        "cifar100": torchvision.datasets.CIFAR100,
    }[name]
    num_classes = int(name.removeprefix("cifar"))
    label_key = "labels" if name == "cifar10" else "fine_labels"
    train_names = [entry[0] for entry in dataset_class.train_list]
    files, train = {}, []
    for file_name in [*train_names, dataset_class.test_list[0][0]]:
        pixels = rng.integers(0, 256, (PER_FILE, 3 * 32 * 32), dtype=np.uint8)
        labels = [i % num_classes for i in range(PER_FILE)]
        files[file_name] = pickled({"data": pixels, label_key: labels})
        if file_name in train_names:
            train.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    class_names = [f"class {i}" for i in range(num_classes)]
    files[dataset_class.meta["filename"]] = pickled({dataset_class.meta["key"]: class_names})
    root.mkdir(parents=True, exist_ok=True)
    archive_path = root / dataset_class.filename
    with tarfile.open(archive_path, "w:gz") as archive:
        for file_name, content in files.items():
            info = tarfile.TarInfo(f"{dataset_class.base_folder}/{file_name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    for attribute in ("train_list", "test_list"):
        entries = [[n, md5(files[n])] for n, _ in getattr(dataset_class, attribute)]
        monkeypatch.setattr(dataset_class, attribute, entries)
    meta = dataset_class.meta | {"md5": md5(files[dataset_class.meta["filename"]])}
    monkeypatch.setattr(dataset_class, "meta", meta)
    monkeypatch.setattr(dataset_class, "tgz_md5", md5(archive_path.read_bytes()))
    return np.concatenate(train)


def put_fashion(monkeypatch, root: Path) -> dict[str, np.ndarray]:
    """Put four small archives of the official layout where torchvision looks for them."""
    rng = np.random.default_rng(0)
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    arrays, resources = {}, []
    for name, _ in torchvision.datasets.FashionMNIST.resources:
        count = 40 if name.startswith("train") else 20
        if "images" in name:
            array = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        else:
            array = (np.arange(count) % 10).astype(np.uint8)
        header = [0x800 | array.ndim, *array.shape]
        content = b"".join(n.to_bytes(4, "big") for n in header) + array.tobytes()
        (folder / name).write_bytes(gzip.compress(content))
        arrays[name] = array
        resources.append((name, md5((folder / name).read_bytes())))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    return arrays


def unavailable(name: str, root: Path) -> str:
    """Return the message, one line, with which loading fails."""
    with pytest.raises(DataUnavailable) as caught:
        load(name, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "per_set"), [("cifar10", 5), ("cifar100", 1)])
def test_cifar_is_read_from_an_archive_without_a_network(
    monkeypatch, tmp_path, offline, name, per_set
):
    images = put_cifar(monkeypatch, tmp_path, name)
    data = load(name, tmp_path)
    assert data.name == name
    np.testing.assert_array_equal(data.train_images, images)
    assert data.train_images.flags.c_contiguous
    assert data.train_labels.tolist() == [
        i % data.num_classes for _ in range(per_set) for i in range(PER_FILE)
    ]
    assert data.test_images.shape == (PER_FILE, 32, 32, 3)
    assert data.num_classes == int(name.removeprefix("cifar"))
    assert data.class_names[9] == "class 9"
    assert data.mean == (0.4914, 0.4822, 0.4465)
    assert data.std == (0.2023, 0.1994, 0.2010)
    # The second time the unpacked files serve, the archive may be gone.
    next(tmp_path.glob("*.tar.gz")).unlink()
    assert load(name, tmp_path).digest == data.digest
    assert not offline


def test_fashion_mnist_is_read_from_archives_without_a_network(monkeypatch, tmp_path, offline):
    arrays = put_fashion(monkeypatch, tmp_path)
    data = load("fashion-mnist", tmp_path)
    train = arrays["train-images-idx3-ubyte.gz"]
    np.testing.assert_array_equal(data.train_images, train[..., np.newaxis])
    np.testing.assert_array_equal(data.test_labels, arrays["t10k-labels-idx1-ubyte.gz"])
    assert data.class_names[9] == "Ankle boot"
    assert data.mean == (pytest.approx((train / 255).mean()),)
    assert data.std == (pytest.approx((train / 255).std()),)
    assert not offline


def test_offline_says_which_file_to_put_where(tmp_path, offline):
    place = tmp_path / "cache"
    for name, cls in (
        ("cifar10", torchvision.datasets.CIFAR10),
        ("cifar100", torchvision.datasets.CIFAR100),
    ):
        message = unavailable(name, place)
        assert f"put {cls.filename} (from {cls.url}) into {place}" in message
        assert "no network" in message
        assert "damaged" not in message
    message = unavailable("fashion-mnist", place)
    archives = ", ".join(entry[0] for entry in torchvision.datasets.FashionMNIST.resources)
    assert f"put {archives} (from " in message
    assert message.endswith(f" into {place / 'FashionMNIST' / 'raw'}")
    assert offline


def test_a_download_is_announced_with_its_size_and_place(tmp_path, capsys):
    unavailable("cifar10", tmp_path)
    error = capsys.readouterr().err
    assert error.startswith("cifar10: downloading 163 MiB (cifar-10-python.tar.gz) from https://")
    assert error.rstrip().endswith(f"to {tmp_path}")


def test_an_archive_that_is_there_is_not_announced(monkeypatch, tmp_path, capsys):
    put_cifar(monkeypatch, tmp_path, "cifar10")
    load("cifar10", tmp_path)
    assert "downloading" not in capsys.readouterr().err


def test_a_second_process_waits_for_the_download_and_uses_it(monkeypatch, tmp_path):
    # To look at what is captured would lose what the thread writes at that moment.
    monkeypatch.setattr("sys.stderr", said := io.StringIO())
    lock = FileLock(tmp_path / ".cifar10.lock")
    lock.acquire()
    loaded = []
    other = threading.Thread(target=lambda: loaded.append(load("cifar10", tmp_path)))
    other.start()
    while "waiting for another process" not in said.getvalue():
        other.join(0.01)
        assert other.is_alive()
    put_cifar(monkeypatch, tmp_path, "cifar10")
    lock.release()
    other.join(600)
    assert len(loaded) == 1


def test_a_damaged_archive_is_named(monkeypatch, tmp_path):
    put_cifar(monkeypatch, tmp_path, "cifar10")
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-100])
    message = unavailable("cifar10", tmp_path)
    assert f"delete {path} (damaged or incomplete) and put cifar-10-python.tar.gz" in message


def test_a_damaged_unpacked_file_is_restored_from_the_archive(monkeypatch, tmp_path):
    put_cifar(monkeypatch, tmp_path, "cifar10")
    digest = load("cifar10", tmp_path).digest
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"half")
    assert load("cifar10", tmp_path).digest == digest


def test_a_damaged_unpacked_fashion_file_is_named(monkeypatch, tmp_path):
    put_fashion(monkeypatch, tmp_path)
    load("fashion-mnist", tmp_path)
    path = tmp_path / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    assert str(path) in unavailable("fashion-mnist", tmp_path)


def test_a_cache_that_cannot_be_used_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    message = unavailable("cifar10", blocked)
    assert f"cannot use the data directory {blocked} for cifar10" in message
    assert "FASTTRAIN_DATA" in message


def test_a_full_disk_is_no_network_problem(monkeypatch, tmp_path):
    def fail(url, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", fail)
    message = unavailable("cifar10", tmp_path)
    assert f"cannot use the data directory {tmp_path}" in message
    assert "No space left" in message


def test_downloads_run_with_a_timeout_that_is_put_back(monkeypatch, tmp_path):
    seen = []

    def fail(url, *args, **kwargs):
        seen.append(socket.getdefaulttimeout())
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", fail)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(77.0)
    try:
        unavailable("cifar10", tmp_path)
        assert socket.getdefaulttimeout() == 77.0
    finally:
        socket.setdefaulttimeout(before)
    assert seen == [30.0]


def test_the_environment_moves_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTTRAIN_DATA", str(tmp_path / "moved"))
    put_cifar(monkeypatch, tmp_path / "moved", "cifar10")
    assert load("cifar10").name == "cifar10"
    assert cache_dir("elsewhere") == Path("elsewhere")


def test_the_default_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTTRAIN_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "fasttrain"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / ".cache" / "fasttrain"


def test_what_lies_here_is_read_and_nothing_is_fetched(monkeypatch, tmp_path, capsys):
    assert load_here("cifar10", tmp_path) is None
    assert load_here(str(tmp_path / "no.npz"), tmp_path) is None
    assert load_here("digits", tmp_path) is None
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().err
    put_cifar(monkeypatch, tmp_path, "cifar10")
    digest = load("cifar10", tmp_path).digest
    found = load_here("cifar10", tmp_path)
    assert found is not None and found.digest == digest
    damage = next((tmp_path / "cifar-10-batches-py").glob("*_batch*"))
    damage.write_bytes(b"")
    for archive in tmp_path.glob("*.tar.gz"):
        archive.unlink()
    assert load_here("cifar10", tmp_path) is None
