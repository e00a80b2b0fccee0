"""The scripts of docs/examples on a Slurm of one node, which the test starts and stops.

Without Debian's `slurmctld`, `slurmd`, `slurm-client` and `munge` it is skipped;
FASTTRAIN_REQUIRE_OPTIONAL=1 makes that a failure.
"""

import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from .conftest import contents

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Slurm:
    """A controller and a node on loopback, with all they write below `folder`."""

    def __init__(self, folder: Path, apart: Sequence[str] = ()):
        self.folder = folder
        self.apart = apart
        self.daemons: dict[str, subprocess.Popen] = {}
        self.environment = {
            **os.environ,
            "PATH": PATH,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        host = socket.gethostname()
        controller, node = free_ports(2)
        names = {"host": host, "user": self.folder.owner(), "folder": self.folder}
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(controller=controller, node=node, **names)
        )
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("log", "pid", "seed")]
        own = [f"--key-file={key}", f"--socket={self.folder}/munge.socket", *files]
        self.daemon("munged", "--foreground", "--force", *own)
        self.until((self.folder / "munge.socket").exists)
        self.daemon("slurmctld", "-D")
        self.daemon("slurmd", "-D", "-N", host, before=self.apart)
        self.until(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"))

    def daemon(self, *command: str, before: Sequence[str] = ()) -> None:
        with (self.folder / f"{command[0]}.out").open("wb") as out:
            self.daemons[command[0]] = subprocess.Popen(
                [*before, *command], env=self.environment, stdout=out, stderr=out
            )

    def ask(self, *command: str) -> str:
        """What a command of Slurm's, run beside `folder`, prints."""
        here = self.folder.parent
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.run(command, env=self.environment, cwd=here, **output).stdout

    def until(self, true: Callable[[], object]) -> None:
        """Asks again and again, while the daemons live, for at most ten minutes."""
        end = time.monotonic() + 600
        while not true():
            assert time.monotonic() < end, self.ask("scontrol", "show", "job")
            select.select([], [], [], 0.2)
            for name, daemon in self.daemons.items():
                assert daemon.poll() is None, (self.folder / f"{name}.out").read_text()

    def finish(self, requeued: str) -> None:
        """Start a requeued job again, and wait until no job is left.

        Slurm waits two minutes before it does, unless it is told otherwise; in the second of its
        end the node would still refuse it.
        """
        at = "StartTime=now+5"
        self.until(lambda: not self.ask("scontrol", "update", f"JobId={requeued}", at))
        self.until(lambda: not self.ask("squeue", "--noheader"))

    def stop(self) -> None:
        if self.daemons:
            self.ask("scancel", "--state=RUNNING")
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            daemon.wait()


REAPED = '"$0" "$@" & wait'
APART = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", REAPED)
"""before a program that is to see no processes but its own: `ray stop` ends all that it sees, and
waits for what nobody reaps"""


def lacking(reason: str) -> None:
    """Skip the test, or fail it where all tests have to run."""
    is_needed = os.environ.get("FASTTRAIN_REQUIRE_OPTIONAL") == "1"
    (pytest.fail if is_needed else pytest.skip)(reason)


def started(folder: Path, apart: Sequence[str] = ()) -> Iterator[Slurm]:
    if missing := [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]:
        lacking(f"no {', '.join(missing)} here: Debian's slurmctld, slurmd, slurm-client and munge")
    slurm = Slurm(folder, apart)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture
def slurm(tmp_path):
    yield from started(tmp_path / "slurm")


@pytest.fixture
def slurm_apart(tmp_path):
    """Its node has processes of its own: no other Ray runs there."""
    if shutil.which("ray", path=PATH) is None:
        lacking("ray is not installed (the extra ray)")
    if subprocess.run([*APART, "true"], capture_output=True).returncode:
        pytest.skip("a process namespace takes root and unshare")
    yield from started(tmp_path / "slurm", APART)


def test_a_shard_that_slurm_stops_goes_on_when_it_is_requeued(slurm, tiny, tmp_path, fasttrain):
    study = [tiny, "--epochs", 300, "--pack", 1, "--processes", 1]
    assert fasttrain("sweep", *study, "--store", "whole").code == 0
    script = tmp_path / "array.sh"
    script.write_text((EXAMPLES / "slurm_array.sh").read_text().replace("shards=8", "shards=2"))
    resources = ["--array=1-2", "--cpus-per-task=1", "--gpus-per-task=0"]
    job = slurm.ask(
        "sbatch", "--parsable", *resources, script, *map(str, study), "--checkpoint-s", "0.1"
    )
    job = job.strip()
    assert job.isdecimal()

    log = tmp_path / f"fasttrain-{job}_1.log"
    slurm.until(lambda: [*tmp_path.glob("runs/tiny-1-of-2/checkpoints/*")])
    slurm.ask("scancel", "--signal=TERM", f"{job}_1")
    slurm.until(lambda: "Restarts=1" in slurm.ask("scontrol", "show", "job", f"{job}_1"))
    assert "stopped; to resume" in log.read_text()
    slurm.finish(f"{job}_1")

    assert log.read_text().count("report: ") == 1
    stores = [*tmp_path.glob("runs/tiny-*-of-2")]
    assert fasttrain("merge", "merged", *stores).code == 0
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")


def test_a_sweep_on_ray_that_slurm_stops_goes_on_when_it_is_requeued(
    slurm_apart, tiny, tmp_path, fasttrain
):
    slurm = slurm_apart
    study = [tiny, "--epochs", 300, "--pack", 1, "--processes", 2]
    assert fasttrain("sweep", *study, "--store", "whole").code == 0
    resources = ["--nodes=1", "--cpus-per-task=2", "--gpus-per-node=0"]
    flags = [*map(str, study), "--checkpoint-s", "0.1", "--store", "store"]
    script = EXAMPLES / "slurm_ray.sh"
    job = slurm.ask("sbatch", "--parsable", *resources, script, *flags).strip()
    assert job.isdecimal()

    log = tmp_path / f"fasttrain-{job}.log"
    kept = tmp_path / "store" / "checkpoints"
    slurm.until(lambda: [*kept.glob("*")] or not slurm.ask("squeue", "--noheader"))
    assert [*kept.glob("*")], log.read_text()
    slurm.ask("scancel", "--batch", "--signal=TERM", job)
    slurm.until(lambda: "Restarts=1" in slurm.ask("scontrol", "show", "job", job))
    assert "stopped; to resume" in log.read_text()
    slurm.finish(job)

    assert log.read_text().count("report: ") == 1
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
