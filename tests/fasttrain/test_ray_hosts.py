"""A sweep over hosts of their own network, of which one is cut off in the middle of a pack.

Hosts are network namespaces: on an address each, joined by a bridge, and cut off by taking their
link down. Where those cannot be made they are skipped, and without Ray;
FASTTRAIN_REQUIRE_OPTIONAL=1 makes the latter a failure.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import fasttrain as ft

from .conftest import TINY, contents, ended, moment
from .namespaces import Hosts, why_not
from .programs import ENVIRONMENT, checkpoints

if os.environ.get("FASTTRAIN_REQUIRE_OPTIONAL") != "1":
    pytest.importorskip("ray", reason="ray is not installed (the extra ray)")
pytestmark = pytest.mark.optional

PROGRAM = Path(sys.executable).parent
PORT = 6379
HEALTH = {
    "initial_delay_ms": "1000",
    "period_ms": "1000",
    "timeout_ms": "1000",
    "failure_threshold": "10",
}
"""a host counts as lost after about so long without an answer; one that is slow does not"""


@pytest.fixture
def hosts():
    """Three hosts of a cluster: the head, without a CPU, and two with one each."""
    if reason := why_not():
        pytest.skip(reason)
    made = Hosts(3)
    try:
        made.open()
        yield made
    finally:
        made.close()


@pytest.fixture
def environment(tmp_path_factory):
    """A token, and health checks that notice a lost host in seconds."""
    health = {f"RAY_health_check_{name}": value for name, value in HEALTH.items()}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return {**ENVIRONMENT, **health, **token, "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def folder():
    """Where Ray keeps its sockets: their paths have to be short."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as path:
        yield path


def start(hosts: Hosts, environment: dict[str, str], folder: str) -> None:
    """Start Ray on every host, of which the first is the head."""
    head = ["--head", "--port", PORT, "--include-dashboard", "false", "--temp-dir", folder]
    for number in hosts.numbers:
        join = head if number == 1 else ["--address", f"{hosts.address(1)}:{PORT}"]
        own = ["--node-ip-address", hosts.address(number), "--num-cpus", int(number > 1)]
        command = hosts.on(number, [PROGRAM / "ray", "start", *join, *own])
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def sweep(hosts: Hosts, number: int, environment: dict[str, str], folder: Path):
    """The command, on a host."""
    address = f"{hosts.address(1)}:{PORT}"
    flags = ["--store", "store", "--pack", 2, "--processes", 2, "--checkpoint-s", 0]
    program = [sys.executable, "-m", "fasttrain", "sweep", "grid.toml", *flags]
    return subprocess.Popen(
        hosts.on(number, [*program, "--engine", "ray", "--address", address]),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def moves_on(store: Path, process: subprocess.Popen) -> None:
    """Wait until packs have kept something more."""
    before = checkpoints(store)
    while not checkpoints(store) - before and not ended(process):
        moment()


@pytest.fixture
def grid(tmp_path):
    """Two packs of two stages each that train at once, and are long enough to be cut off."""
    text = TINY.replace("epochs = 3", "epochs = 150").replace("k = [2, 3]", "k = []")
    text = text.replace("plr = [1e-2, 1e-1]", "plr = [1e-3, 3e-3, 1e-2, 3e-2]")
    (tmp_path / "grid.toml").write_text(text)
    return ft.study(tmp_path / "grid.toml")


@pytest.fixture
def whole(grid, tmp_path):
    """The results of the local engine, without an interruption."""
    ft.sweep(grid, store=tmp_path / "whole", pack=2, processes=2)
    return contents(tmp_path / "whole")


def test_a_host_that_is_cut_off_is_not_needed(hosts, environment, folder, tmp_path, whole):
    start(hosts, environment, folder)
    process = sweep(hosts, 1, environment, tmp_path)
    moves_on(tmp_path / "store", process)
    hosts.cut(3)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "its pack of 2 runs again" in output
    assert contents(tmp_path / "store") == whole
