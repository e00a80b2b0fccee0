"""A job in a process of its own: `python -m` this module, JOB RESULT, both JSON files.

Processes that a sweep starts import this module again: it must import nothing heavy by itself.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(job_path: str, result_path: str) -> None:
    """Do a job and write what it found."""
    from bench.grid.jobs import SIDES
    from fasttrain.plan.config import RunOptions, check

    job: dict[str, Any] = json.loads(Path(job_path).read_text())
    root = job["data_root"]
    options = RunOptions(data_root=None if root is None else Path(root), device="cpu", quiet=True)
    config = check(job["config"], "job")
    found = SIDES[job["side"]](config, options, job["seed"], Path(job["folder"]))
    Path(result_path).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
