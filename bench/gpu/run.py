"""`python -m bench gpu`: measure what a GPU makes of kernels and training; one JSON, one page.

Every part runs in a process of its own, so that one that fails leaves the others their device, and
is written when it ends: the same command again goes on with the parts that are missing, and within
tables and the suite with the rows and tests that are; what sources, a device or versions have made
that are not these is not kept. Every part has a limit
(`parts.LIMITS`), all together the budget, and with it what those before it have left of theirs. In
a smaller budget the last ones are dropped; in a larger one all limits grow. Without a GPU only
`--dry-run` runs: all of it, on the CPU, with sizes that measure nothing.
"""

import argparse
import dataclasses
import json
import math
import os
import signal
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
    parser.add_argument("--until", type=float, default=math.inf, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Run what is missing; 1 if a part, a row or a test has failed, 2 if nothing can be run."""
    told = arguments(given)
    from fasttrain.errors import EnvironmentProblem, UsageError
    from fasttrain.machine.precision import resolve_device

    from .parts import NEED_CEILINGS, PARTS

    chosen = set(filter(None, told.parts.split(","))) or set(PARTS)
    unknown = sorted(chosen - PARTS.keys())
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
    if chosen & NEED_CEILINGS:
        chosen.add("ceilings")
    return _all(told, device, [name for name in PARTS if name in chosen])


def _one(told: argparse.Namespace, device: Any) -> int:
    """One part, in this process: its findings as JSON."""
    from .machine import SIZES, keep, kept
    from .parts import carry_out

    size = SIZES["tiny" if told.dry_run else "full"]
    size = dataclasses.replace(size, until=told.until)
    earlier, _ = _found(told, device)
    before = {name: part.get("found") for name, part in earlier["parts"].items()}
    found = carry_out(told.one, size, device, told.out, before)
    keep(kept(told.out, told.one), found)
    return 0


def _found(told: argparse.Namespace, device: Any) -> tuple[dict[str, Any], str]:
    """What is there already of this kind of run, device, versions and sources; else why not."""
    from .machine import origin

    path = told.out / "gpu.json"
    new = {"dry run": told.dry_run, "origin": origin(device)}
    earlier = json.loads(path.read_text()) if path.exists() else new | {"parts": {}}
    others = {name: earlier.get(name) for name in new}
    if others == new:
        return earlier, ""
    own, other = new["origin"], others["origin"] or {}
    what = [name for name in own if own[name] != other.get(name)] or ["dry run"]
    return new | {"parts": {}}, f"{path} is of another {', '.join(what)}: all is measured anew"


def _all(told: argparse.Namespace, device: Any, names: list[str]) -> int:
    from .machine import kept
    from .parts import NEED_CEILINGS

    started = time.monotonic()
    found, why = _found(told, device)
    if why:
        print(why, flush=True)
    _take_up(told, found, is_other=bool(why))
    for name, end in deadlines(names, found["parts"], told.budget_s).items():
        left = started + end - time.monotonic()
        if left <= 0:
            print(f"{name}: not begun, the budget of {told.budget_s:g} s is spent", flush=True)
            continue
        if name in NEED_CEILINGS and "found" not in found["parts"].get("ceilings", {}):
            print(f"{name}: not begun, the ceilings were not measured", flush=True)
            continue
        earlier = found["parts"].get(name, {})
        found["parts"][name] = {k: v for k, v in earlier.items() if k == "found"} | _part(
            told, name, left
        )
        _write(told, found)
        kept(told.out, name).unlink(missing_ok=True)
        said = found["parts"][name].get("error") or f"{found['parts'][name]['s']:.1f} s"
        print(f"{name}: {said}", flush=True)
    missing = [name for name in names if not is_done(found["parts"].get(name, {}))]
    print(f"{told.out / 'gpu.json'}, {told.out / 'gpu.md'}")
    failed = {name: num_failed(found["parts"].get(name, {}).get("found")) for name in names}
    for name, count in failed.items():
        if count:
            print(f"{name}: {count} failed; what failed runs again once the sources have changed")
    return 1 if missing or any(failed.values()) else 0


def _take_up(told: argparse.Namespace, found: dict[str, Any], *, is_other: bool) -> None:
    """Put what parts have left that were stopped with the command beside what there is."""
    from .machine import kept
    from .parts import PARTS

    left = [(name, kept(told.out, name)) for name in PARTS if kept(told.out, name).exists()]
    if is_other or not (told.out / "gpu.json").exists():
        # Of another device, other sources, or nobody knows what.
        for _, path in left:
            path.unlink()
        left = []
    for name, path in left:
        so_far = {"found": json.loads(path.read_text()), "error": "stopped with the command"}
        found["parts"][name] = found["parts"].get(name, {}) | so_far
    # Before any part begins: what it leaves is of this device and these sources.
    _write(told, found)
    for _, path in left:
        path.unlink()


def _write(told: argparse.Namespace, found: dict[str, Any]) -> None:
    from fasttrain.machine.files import write_atomically

    from .page import page

    write_atomically(told.out / "gpu.json", json.dumps(found, indent=1).encode())
    write_atomically(told.out / "gpu.md", page(found).encode())


def deadlines(names: list[str], found: dict[str, Any], budget_s: float) -> dict[str, float]:
    """Of the parts that are missing the seconds after the beginning at which each has to end."""
    from .parts import LIMITS

    missing = [name for name in names if not is_done(found.get(name, {}))]
    wider = max(1.0, budget_s / (sum(LIMITS[name] for name in missing) or 1.0))
    ends, end = {}, 0.0
    for name in missing:
        end += wider * LIMITS[name]
        ends[name] = min(end, budget_s)
    return ends


def _part(told: argparse.Namespace, name: str, left_s: float) -> dict[str, Any]:
    from .machine import is_open, kept

    command = [sys.executable, "-m", "bench.gpu.run", "--one", name, "--out", str(told.out)]
    command += ["--device", told.device, *(["--dry-run"] if told.dry_run else [])]
    paths = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "data"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    started, log = time.monotonic(), told.out / f"{name.replace(' ', '-')}.log"
    # All processes have the same clock: what the part takes to start is of its time, as here.
    command += ["--until", str(started + left_s)]
    result = kept(told.out, name)
    code = ended(command, environment, log, left_s)
    part: dict[str, Any] = {"s": time.monotonic() - started}
    if result.exists():
        part["found"] = json.loads(result.read_text())
    waiting = sum(map(is_open, rows_of(part.get("found"))))
    if code is None:
        part["error"] = f"not ended within {left_s:.0f} s"
    elif code:
        last = (log.read_text().strip().splitlines() or ["no word of why"])[-1]
        part["error"] = f"exit code {code}: {last}"
    elif waiting:
        part["error"] = f"{waiting} rows not measured, the same command goes on with them"
    return part


def is_done(part: dict[str, Any]) -> bool:
    """Whether nothing of a part is left to another call."""
    return "found" in part and "error" not in part


def num_failed(found: Any) -> int:
    """Rows of a table, or tests of the suite, that have failed."""
    from .machine import is_open

    if isinstance(found, dict):
        return len(found.get("failures", []))
    return sum("error" in row and not is_open(row) for row in rows_of(found))


def rows_of(found: Any) -> list[dict[str, Any]]:
    """The rows of a part that is a table."""
    return found if isinstance(found, list) else []


def ended(command: list[str], environment: dict[str, str], log: Path, limit_s: float) -> int | None:
    """The exit code of a program; None if it and all that it started had to be stopped."""
    with (
        log.open("w") as file,
        subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        ) as program,
    ):
        try:
            return program.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            return None
        except KeyboardInterrupt:
            os.killpg(program.pid, signal.SIGKILL)
            raise


if __name__ == "__main__":
    sys.exit(main())
