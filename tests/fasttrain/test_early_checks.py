"""What is told before torch is imported, and what works where tyro is not installed."""

import json
import os
import subprocess
import sys

import pytest

AT_ONCE = [
    (["--help"], 0, "PRESET|FILE.toml"),
    (["--version"], 0, "0."),
    (["sweep", "--help"], 0, "--plr"),
    (["bench", "kernels", "--help"], 0, "--static"),
    (["sweep", "digts"], 2, "did you mean 'digits'"),
    (["sweep", "digits", "--epochs", "0"], 2, "training.epochs = 0"),
    (["sweep", "digits", "--dataset", "cifar11"], 2, "did you mean 'cifar10'"),
    (["sweep", "digits", "--dataset", "none.npz"], 2, "none.npz cannot be read"),
    (["sweep", "digits", "--device", "tpu"], 2, "device = 'tpu'"),
    (["sweep", "digits", "--pack", "0"], 2, "pack = 0"),
    (["sweep", "digits", "--store", "/dev/null/x"], 1, "/dev/null is no directory"),
    (["sweep", "digits", "--store", "full"], 1, "full: exists and is not a fasttrain store"),
    (["sweep", "digits", "--data-root", "full/file"], 1, "full/file: not a directory"),
    (["train", "digits", "--plr", "0"], 2, "--plr: 0: a learning rate"),
    (["train", "digits", "--plr", "1", "--dataset", "none.npz"], 2, "none.npz cannot be read"),
    (["train", "digits", "--plr", "1", "--store", "full"], 1, "full: exists"),
    (["locate", "digits", "--ratio", "1"], 2, "--ratio 1"),
    (["locate", "digits", "--plr", "1:2:3"], 2, "locate takes FIRST:LAST"),
    (["locate", "digits", "--dataset", "none.npz"], 2, "none.npz cannot be read"),
    (["locate", "digits", "--store", "full"], 1, "full: exists"),
    (["report", "/nonexistent"], 1, "/nonexistent: no such store"),
    (["report", "full"], 1, "full: exists and is not a fasttrain store"),
    (["report", "x", "--interval", "0"], 2, "--interval 0"),
    (["sweep", "digits", "--shard", "5/4"], 2, "--shard 5/4: i must be 1 to 4"),
    (["merge", "x"], 2, "merge needs the stores to join"),
    (["merge", "x", "/nonexistent"], 1, "/nonexistent: no such store"),
    (["analyse", "/nonexistent"], 1, "/nonexistent: no such store"),
    (["analyse", "x", "--low", "0"], 2, "low = 0.0: 0: a learning rate"),
    (["analyse", "x", "--k", "0"], 2, "k = 0: must be greater than 0"),
    (["analyse", "x", "--device", "tpu"], 2, "device = 'tpu'"),
    (["analyse", "x", "--dataset", "none.npz"], 2, "none.npz cannot be read"),
    (["analyse", "x", "--target", "dgits"], 2, "did you mean 'digits'"),
    (["analyse", "x", "--only", "transfer"], 2, "transfer needs target"),
    (["data", "inspect", "none.toml"], 2, "none.toml: cannot be read"),
    (["data", "inspect", "dgits"], 2, "did you mean 'digits'"),
    (["data", "inspect", "none.beton"], 2, "none.beton cannot be read"),
    (["data", "verify", "none.beton"], 2, "none.beton cannot be read"),
    (["data", "write", "dgits", "x.beton"], 2, "did you mean 'digits'"),
    (["data", "write", "digits", "x.bin"], 2, "ends in .beton"),
    (["data", "write", "digits", "none/x.beton"], 1, "none is no directory"),
    (["bench", "kernels", "--rounds", "1"], 2, "--rounds 1"),
    (["bench", "kernels", "--only", "packs"], 2, "did you mean 'pack'"),
    (["bench", "data", "--dataset", "none.npz"], 2, "none.npz cannot be read"),
    (["bench", "grid", "--dataset", "none.npz"], 2, "none.npz cannot be read"),
]
WITHOUT_TORCH = """
import contextlib, io, json, sys
from fasttrain.cli.main import run
outcomes = []
for arguments in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = run(arguments)
        except SystemExit as stop:
            code = stop.code or 0
    outcomes.append([code, said.getvalue(), "torch" in sys.modules])
json.dump(outcomes, sys.stdout)
"""


def test_what_can_be_told_at_once_is_told_without_torch(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        cwd=tmp_path,
        input=json.dumps([arguments for arguments, _, _ in AT_ONCE]),
        capture_output=True,
        text=True,
        check=True,
    )
    outcomes = json.loads(done.stdout)
    for (arguments, code, message), (found, said, torch) in zip(AT_ONCE, outcomes, strict=True):
        assert found == code, (arguments, said)
        assert message in said, arguments
        assert not torch, f"{arguments} imports torch"
        assert code == 0 or said.count("\n") == 1, arguments
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


WITHOUT_TYRO = """
import importlib, pkgutil, sys
from pathlib import Path

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tyro":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
import fasttrain
TYRO = "__main__ cli.actions cli.arguments cli.completion cli.export cli.main cli.stores cli.usage"
COMMAND_LINE = {f"fasttrain.{name}" for name in TYRO.split()}
# Each needs a library that an extra brings.
EXTRAS = {f"fasttrain.export.{name}" for name in ("tensorboard", "wandb", "mlflow")}
EXTRAS |= {f"fasttrain.execution.engines.ray_{name}" for name in ("engine", "kinds", "worker")}
names = {module.name for module in pkgutil.walk_packages(fasttrain.__path__, "fasttrain.")}
assert COMMAND_LINE | EXTRAS < names
for name in sorted(names - COMMAND_LINE - EXTRAS):
    importlib.import_module(name)

results = fasttrain.sweep("tiny.toml", store="store", processes=1, pack=4, compile="off")
assert len(results.stages) == 8
assert len(fasttrain.load("store")) == 8
assert not any(name.partition(".")[0] == "tyro" for name in sys.modules)
"""


def test_the_library_imports_and_trains_without_tyro(tmp_path, tiny):
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_TYRO],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", "tiny.toml", "--dry-run", "--pack", "1"],
        ["sweep", "tiny.toml", "--pack", "2"],
        ["--help"],
        ["sweep", "--help"],
    ],
    ids=" ".join,
)
def test_a_reader_that_leaves_ends_a_command_quietly(tmp_path, tiny, arguments):
    """As `| head -0` does: nobody reads the pipe from the start."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "fasttrain", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_that_cannot_be_written_is_said(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fasttrain", "--help"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("fasttrain: ") and "No space left on device" in done.stderr


def test_the_module_runs(tmp_path):
    command = [sys.executable, "-m", "fasttrain", "--version"]
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
