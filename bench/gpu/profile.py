"""`python -m bench gpu-profile`: the kernels of one training step, by torch.profiler, in a file."""

import argparse
import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from fasttrain.errors import EnvironmentProblem, UsageError
from fasttrain.machine.precision import resolve_device, set_exact_arithmetic

from .machine import SIZES, wait
from .steps import NETWORKS, captured_epochs, one_by_one, replay, workbench_of


def main(given: list[str] | None = None) -> int:
    """Profile a step; returns 2 if there is no such device."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu-profile", description=__doc__)
    parser.add_argument("--network", choices=list(NETWORKS), default="ResNet-18 c=32")
    parser.add_argument("--models", type=int, default=1, help="of the pack")
    parser.add_argument("--eager", action="store_true", help="without a CUDA graph")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"))
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
    told = parser.parse_args(given)
    try:
        device = resolve_device("cpu" if told.dry_run else told.device)
    except (EnvironmentProblem, UsageError) as error:
        print(f"{error}; --dry-run runs on the CPU", file=sys.stderr)
        return 2
    set_exact_arithmetic()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    told.out.mkdir(parents=True, exist_ok=True)
    size = SIZES["tiny" if told.dry_run else "full"]
    workbench = workbench_of(told.network, size, device, told.out)
    if told.eager:
        step = one_by_one(workbench, told.models)
    else:
        step = replay(captured_epochs(workbench, told.models))
    for _ in range(3):
        step()
    wait(device)
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=activities) as profiler:
        step()
        wait(device)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=key, row_limit=60, max_name_column_width=90)
    (told.out / "step.txt").write_text(table)
    profiler.export_chrome_trace(str(told.out / "step.json"))
    print(f"{told.out / 'step.txt'}, {told.out / 'step.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
