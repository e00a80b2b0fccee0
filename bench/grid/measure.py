"""Runs a job in a process of its own, and watches the memory of all its processes."""

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fasttrain.errors import EnvironmentProblem
from fasttrain.plan.config import Config

from .cases import Cell
from .profiling import Profile

SAMPLE_S = 0.3


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a job took."""

    seconds: float
    """of training the grid"""
    start_s: float
    """of all before and after: imports, choosing, starting processes, one epoch"""
    peak_mib: float | None
    """most memory of all its processes at once, shared pages counted once; None off Linux"""
    bytes: int
    """of the files it left"""
    cells: list[Cell] = field(default_factory=list)
    how: str = ""

    @property
    def whole_s(self) -> float:
        """Of the whole process, from its start to its end."""
        return self.start_s + self.seconds


def run_job(side: str, config: Config, seed: int, data_root: Path | None) -> Measurement:
    """Train a grid on one side, in a folder that is deleted afterwards.

    Raises:
        EnvironmentProblem: the job failed.
    """
    found, whole_s, peak = _run(side, config, seed, data_root)
    return Measurement(
        seconds=found["seconds"],
        start_s=whole_s - found["seconds"],
        peak_mib=peak / 2**20 if peak else None,
        bytes=found["bytes"],
        cells=[tuple(cell) for cell in found["cells"]],
        how=found["how"],
    )


def run_profile(config: Config, data_root: Path | None) -> Profile:
    """Where the time of a pack of ours goes.

    Raises:
        EnvironmentProblem: the job failed.
    """
    return Profile(**_run("profile", config, 0, data_root)[0])


def _run(side: str, config: Config, seed: int, data_root: Path | None) -> tuple[dict, float, int]:
    with tempfile.TemporaryDirectory(prefix="fasttrain-bench-") as name:
        folder = Path(name)
        (folder / "runs").mkdir()
        job = {
            "side": side,
            "config": asdict(config),
            "seed": seed,
            "data_root": None if data_root is None else str(data_root),
            "folder": str(folder / "runs"),
        }
        (folder / "job.json").write_text(json.dumps(job))
        command = [sys.executable, "-m", "bench.grid.worker"]
        command += [str(folder / "job.json"), str(folder / "result.json")]
        started, peak = time.perf_counter(), 0
        with (folder / "errors.txt").open("wb") as errors:
            process = subprocess.Popen(command, stdout=errors, stderr=errors)
            try:
                while process.poll() is None:
                    peak = max(peak, tree_bytes(process.pid))
                    time.sleep(SAMPLE_S)
            finally:
                process.kill()
                process.wait()
        seconds = time.perf_counter() - started
        if process.returncode:
            lines = (folder / "errors.txt").read_text().strip().splitlines() or ["no message"]
            raise EnvironmentProblem(f"{side}: exit code {process.returncode}: {lines[-1]}")
        return json.loads((folder / "result.json").read_text()), seconds, peak


def tree_bytes(root: int) -> int:
    """Memory of a process and all that descend from it, shared pages counted once; 0 off Linux."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The command's name, in brackets, may hold anything.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children[parent].append(int(stat.parent.name))
    total, left = 0, [root]
    while left:
        process = left.pop()
        left += children[process]
        total += _proportional_bytes(process)
    return total


def _proportional_bytes(process: int) -> int:
    """A process's memory, with its share of the pages that others have too; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
