"""The examples run as scripts, on data so small that a run is a matter of seconds."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import fasttrain
from fasttrain.cli import main

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
QUICK = ("--epochs", "2", "--finetune-epochs", "1", "--plr", "3e-3", "--k", "2")
ALONE = ("--processes", "1", "--pack", "2", "--compile", "off")


def run(name: str, *options: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_resnet_on_random_images(tmp_path):
    options = ("--fake", "32", "--epochs", "2", "--batch-size", "16", "--images", "32")
    lines = run("resnet_cifar.py", *options, folder=tmp_path).splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2"]
    assert "nan" not in "".join(lines)
    assert not list(tmp_path.iterdir())


def test_a_transformer_stays_on_the_spheres_of_its_matrices_and_learns(tmp_path):
    text = run("transformer_spheres.py", "--steps", "51", "--width", "32", folder=tmp_path)
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", text)]
    assert losses[-1] < losses[0]
    change = re.search(r"changed by at most (\S+)", text)
    assert change is not None
    assert float(change[1]) < 1e-5


def test_two_processes_shard_a_network(tmp_path):
    """As `torchrun` starts them."""
    options = ("--steps", "51", "--width", "32", "--save", "saved")
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "with_fsdp2.py"), *options]
    with socket.socket() as held:
        # While it is held nobody else is given the port; who asks for it may share it.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = str(held.getsockname()[1])
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        ranks = [
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", **common, "RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        said = [rank.communicate()[0] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), "\n".join(said)
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", said[0])]
    assert losses[-1] < losses[0]
    norm, radius = re.findall(r"(?:norm|radius) (\d+\.\d+)", said[0])
    assert float(norm) == pytest.approx(float(radius), rel=1e-6)
    assert (tmp_path / "saved" / ".metadata").is_file()


def test_a_grid_from_python_and_again(tmp_path):
    options = ("--plr", "1e-2", "3e-2", "--epochs", "2", "--quiet", "--store", "store")
    text = run("from_python.py", *options, folder=tmp_path)
    accuracy = re.search(r"best: .* (\d+\.\d)%", text)
    assert accuracy is not None and float(accuracy[1]) > 20
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*/done.json")}
    assert len(before) == 6
    assert run("from_python.py", *options, folder=tmp_path) == text
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="needs lightning")
def test_lightning(tmp_path):
    text = run("with_lightning.py", "--epochs", "1", "--images", "256", folder=tmp_path)
    assert "accuracy" in text


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A copy of the examples of own parts, in which this process is while it has their modules."""
    folder = tmp_path / "own"
    shutil.copytree(EXAMPLES / "own", folder, ignore=shutil.ignore_patterns("__py*"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield folder
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def sweep(own, capsys):
    """What a user runs in the folder of the file, in this process: that starts more quickly."""

    def call(path: str, options: tuple[str, ...] = QUICK) -> str:
        command = ["sweep", path, "--store", "store", "--seeds", "1", *options, *ALONE]
        code = main.run(command)
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return call


SAID = {
    "patched.toml": "2 of 8 trained tensors lie on the sphere: first.weight, second.weight",
    "lion.toml": "report: store/report/report.html",
    "tables.toml": "train_images: (N, H, W) as gray, float64 times 255, rounded to uint8",
    "vit.toml": "11 of 31 trained tensors have recorded norms: places, patches.weight,",
}


@pytest.mark.parametrize("name", SAID)
def test_own_parts_of_the_examples(own, sweep, name):
    assert SAID[name] in sweep(name)
    assert set(fasttrain.load(own / "store")["state"]) <= {"done", "at-chance"}


def test_a_wide_resnet_on_patched_images_along_chains_with_noise(own, sweep):
    text = (own / "wide_resnet.toml").read_text()
    (own / "wide_resnet.toml").write_text(re.sub(r"epochs = \d+", "epochs = 1", text))
    sweep("wide_resnet.toml", options=())
    stages = fasttrain.load(own / "store")
    assert set(stages["path"]) == {
        *("0.1", "0.1>0.001", "0.001", "0.001 noise 0.2"),
        *("0.001>0.001", "0.001 noise 0.2>0.001"),
    }
    # From one start and on the same batches, noise alone makes the difference.
    losses = stages.set_index("path")["train_loss"]
    assert losses["0.001"] != losses["0.001 noise 0.2"]
    assert set(fasttrain.Results(own / "store").sets["set"]) == {"test", "patch_only", "unpatched"}


def test_features_of_one_half_of_the_digits_are_tried_on_the_other(own, sweep):
    text = (own / "halves.toml").read_text()
    text = re.sub(r"epochs = \d+", "epochs = 2", text).replace("seeds = 10", "seeds = 1")
    (own / "halves.toml").write_text(text)
    sweep("halves.toml", options=())
    analyse = ["analyse", "store", "--only", "transfer", "--target", "halves:odd"]
    assert main.run([*analyse, "--processes", "1"]) == 0
    table = fasttrain.load_analyses(own / "store")["transfer"]
    assert set(table["target"]) == {"odd digits"} and len(table) == 4
    # Better than a guess of five classes.
    assert table["accuracy"].min() > 0.4
