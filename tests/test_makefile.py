"""What make would install, and what CI runs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INDEX = "https://index.example/cpu"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")


def would_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask make in a folder where nothing is installed."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    command = ["make", "--no-print-directory", "--dry-run", *arguments]
    # What these tests were started with is for another make.
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=folder, env=mine, capture_output=True, text=True)


def test_a_cpu_build_of_torch_is_taken_from_the_index_that_is_named(tmp_path):
    done = would_run(tmp_path, "demo", "TORCH=cpu", f"TORCH_INDEX={INDEX}")
    assert done.returncode == 0, done.stderr
    first, second = (line for line in done.stdout.splitlines() if "pip install" in line)
    assert f"--index-url '{INDEX}' torch torchvision" in first
    assert "--editable '.[dev]'" in second and INDEX not in second
    assert "a CUDA build: make clean first" in done.stdout


def test_by_default_torch_comes_with_the_rest(tmp_path):
    done = would_run(tmp_path, "demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pip install") == 1 and "CUDA build" not in done.stdout


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("TORCH=cpu", "TORCH=cpu needs TORCH_INDEX=URL: an index of CPU builds"),
        ("TORCH=gpu", "TORCH=gpu: allowed are default and cpu"),
    ],
)
def test_a_choice_of_torch_that_cannot_be_made_is_named(tmp_path, argument, message):
    done = would_run(tmp_path, "demo", argument)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize(
    "check",
    [
        "env FASTTRAIN_HIDE_FFCV=1 make test",
        "make test-lowest",
        "env FASTTRAIN_REQUIRE_OPTIONAL=1 make test-optional",
    ],
)
def test_ci_tests_without_ffcv_with_the_lowest_versions_and_with_everything(check):
    assert f"\ncheck {check}\n" in (ROOT / ".ci" / "run").read_text()
