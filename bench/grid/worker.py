"""A job in a process of its own: `python -m` this module, JOB RESULT, both JSON files.

It must import nothing heavy by itself: ours starts as `fasttrain sweep` does, and the server of its
workers is a fork of this process, made before anything is computed.
"""

import json
import sys
from pathlib import Path
from typing import Any

from fasttrain.machine.processes import fork_server, usable_cpus


def main(job_path: str, result_path: str) -> None:
    """Do a job and write what it found."""
    job: dict[str, Any] = json.loads(Path(job_path).read_text())
    if job["side"] == "ours" and usable_cpus() > 1:
        fork_server()
    from bench.grid.jobs import SIDES
    from fasttrain.plan.config import RunOptions, check

    root = job["data_root"]
    options = RunOptions(data_root=None if root is None else Path(root), device="cpu", quiet=True)
    config = check(job["config"], "job")
    found = SIDES[job["side"]](config, options, job["seed"], Path(job["folder"]))
    Path(result_path).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
