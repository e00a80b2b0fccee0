"""`python -m bench gpu`: measure what a GPU makes of kernels and training; one JSON, one page.

Every part runs in a process of its own, so that one that fails leaves the others their device, and
is written when it ends: the same command again goes on with what is missing. No part begins after
the budget, and none runs beyond it. Without a GPU only `--dry-run` runs: all of it, on the CPU,
with sizes that measure nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command was told."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"), help="folder of the results")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:0, cuda:1, ...")
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds for all parts")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--parts", default="", help="names with commas; all if not given")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Run the parts that are missing; returns 1 if one has failed, 2 if nothing can be run."""
    told = arguments(given)
    from fasttrain.errors import EnvironmentProblem, UsageError
    from fasttrain.machine.precision import resolve_device

    from .parts import PARTS

    unknown = [name for name in told.parts.split(",") if name and name not in PARTS]
    if unknown:
        print(f"--parts {unknown[0]!r}: allowed are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    try:
        device = resolve_device("cpu" if told.dry_run else told.device)
    except (EnvironmentProblem, UsageError) as error:
        print(f"{error}; --dry-run runs all of it on the CPU", file=sys.stderr)
        return 2
    if device.type == "cpu" and not told.dry_run:
        print("--device cpu: measures GPUs; --dry-run runs all of it on the CPU", file=sys.stderr)
        return 2
    told.out.mkdir(parents=True, exist_ok=True)
    if told.one:
        return _one(told, device)
    return _all(told, [name for name in PARTS if not told.parts or name in told.parts.split(",")])


def _one(told: argparse.Namespace, device: Any) -> int:
    """One part, in this process: its findings as JSON."""
    from .machine import SIZES
    from .parts import carry_out

    size = SIZES["tiny" if told.dry_run else "full"]
    before = {name: part.get("found") for name, part in _found(told)["parts"].items()}
    found = carry_out(told.one, size, device, told.out, before)
    (told.out / "part.json").write_text(json.dumps(found))
    return 0


def _found(told: argparse.Namespace) -> dict[str, Any]:
    """What is there already, of the same kind of run."""
    path = told.out / "gpu.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found["dry run"] == told.dry_run:
            return found
    return {"dry run": told.dry_run, "parts": {}}


def _all(told: argparse.Namespace, names: list[str]) -> int:
    from fasttrain.machine.files import write_atomically

    from .page import page

    found, until = _found(told), time.monotonic() + told.budget_s
    for name in names:
        left = until - time.monotonic()
        if "found" in found["parts"].get(name, {}):
            continue
        if left <= 0:
            print(f"{name}: not begun, the budget of {told.budget_s:g} s is spent", flush=True)
            continue
        found["parts"][name] = _part(told, name, left)
        write_atomically(told.out / "gpu.json", json.dumps(found, indent=1).encode())
        write_atomically(told.out / "gpu.md", page(found).encode())
        said = found["parts"][name].get("error") or f"{found['parts'][name]['s']:.1f} s"
        print(f"{name}: {said}", flush=True)
    missing = [name for name in names if "found" not in found["parts"].get(name, {})]
    print(f"{told.out / 'gpu.json'}, {told.out / 'gpu.md'}")
    return 1 if missing else 0


def _part(told: argparse.Namespace, name: str, left_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.gpu.run", "--one", name, "--out", str(told.out)]
    command += ["--device", told.device, *(["--dry-run"] if told.dry_run else [])]
    paths = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "data"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=left_s
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not ended within {left_s:.0f} s"}
    (told.out / f"{name.replace(' ', '-')}.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
        return {"error": f"exit code {done.returncode}: {last}"}
    content = json.loads((told.out / "part.json").read_text())
    return {"found": content, "s": time.monotonic() - started}


if __name__ == "__main__":
    sys.exit(main())
