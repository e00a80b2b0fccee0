"""One step of plain SGD and of Adam on the sphere, beside torch's: tables of interleaved times.

    python -m bench sgd                    # every case on one and two threads
    python -m bench sgd --threads 1 --seconds 5 "6 small tensors" experts

Times are CPU time of the calling thread on one thread, else wall-clock time. Variants take turns
in every round, in another order each time; a row has the medians and the median ratio to torch's
step of the same round. Arrays are of fp32. `experts` gives a random 30 % of 100 tensors a gradient,
others in every step.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import torch
from torch import nn

from bench.optimizer_variants import CASES
from fasttrain_kernels import FusedSGD, SphereAdam, SphereSGD

SHAPES: dict[str, list[tuple[int, ...]]] = {
    **{case.name: case.shapes() for case in CASES.values() if case.num_models == 1},
    "6 small tensors": [(8, 3, 3, 3)] * 6,
    "experts": [(32, 32)] * 100,
}
OPTIONS: dict[str, dict] = {
    "SGD": {},
    "momentum": {"momentum": 0.9},
    "Nesterov, weight decay": {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
}
LR = 1e-6
MEMORY = 12, 8
"""bytes per number of an update in place, and of sums of two lists"""

Step = Callable[[], object]


def parameters(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator)
    return made


def rows(shapes: list[tuple[int, ...]]) -> Iterator[tuple[str, dict[str, Step], list]]:
    """Name, ways to take the step with torch's first, and the parameters that they share."""
    for name, options in OPTIONS.items():
        params = parameters(shapes)
        yield (
            name,
            {
                "torch": torch.optim.SGD(params, LR, fused=True, **options).step,
                "without sums": FusedSGD(params, LR, track=False, **options).step,
                "ours": FusedSGD(params, LR, **options).step,
            },
            params,
        )
    params = parameters(shapes)
    yield (
        "Adam",
        {
            "torch": torch.optim.Adam(params, LR, fused=True).step,
            "ours": SphereAdam(params, LR).step,
        },
        params,
    )
    params = parameters(shapes)
    compiled, flat = flat_step(params)
    yield (
        "exact sphere",
        {"torch": lambda: compiled(*flat), "ours": SphereSGD(params, LR).step},
        params,
    )


def flat_step(params: list[nn.Parameter]) -> tuple[Callable, tuple[torch.Tensor, ...]]:
    """The exact step of one flat tensor by torch.compile, which knows no parameters."""
    grads = [p.grad for p in params if p.grad is not None]
    theta, grad = (torch.cat([t.detach().flatten() for t in ts]) for ts in (params, grads))

    @torch.compile(dynamic=False)
    def step(theta: torch.Tensor, grad: torch.Tensor, radius: torch.Tensor) -> None:
        moved = theta - LR * grad
        theta.copy_(moved * (radius / torch.linalg.vector_norm(moved)))

    return step, (theta, grad, torch.linalg.vector_norm(theta))


def measure(
    steps: dict[str, Step], prepare: Step, seconds: float, threads: int, repeat: int
) -> dict[str, list[float]]:
    """Seconds of every step in every round."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    for step in steps.values():
        for _ in range(3):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    order, end = list(steps), time.monotonic() + seconds
    while time.monotonic() < end or len(times[order[0]]) < 15:
        random.shuffle(order)
        for name in order:
            prepare()
            begin = clock()
            for _ in range(repeat):
                steps[name]()
            times[name].append((clock() - begin) / repeat)
    return times


def table(name: str, threads: int, seconds: float) -> None:
    """Print one case."""
    torch.set_num_threads(threads)
    shapes = SHAPES[name]
    count = sum(torch.Size(shape).numel() for shape in shapes)
    print(f"\n{name}, {count:,} parameters, threads {threads}\n")
    print("| step | n | torch µs | ours µs | ratio | without sums µs | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for label, steps, params in rows(shapes):
        grads = [p.grad for p in params]

        def prepare(params=params, grads=grads) -> None:
            if name == "experts":
                for p, grad in zip(params, grads, strict=True):
                    p.grad = grad if random.random() < 0.3 else None

        if name == "experts" and label not in ("SGD", "Adam"):
            # torch's fused step takes no momentum that is new for some; a flat one no subset.
            continue
        times = measure(steps, prepare, seconds, threads, 1 if count > 10_000 else 50)
        cells = [label, str(len(times["torch"])), f"{statistics.median(times['torch']) * 1e6:.1f}"]
        for variant in ("ours", "without sums"):
            pairs = zip(times.get(variant, ()), times["torch"], strict=False)
            ratios = [ours / theirs for ours, theirs in pairs]
            if ratios:
                cells.append(f"{statistics.median(times[variant]) * 1e6:.1f}")
                cells.append(f"{statistics.median(ratios):.2f}")
        print(f"| {' | '.join(cells + ['-'] * (7 - len(cells)))} |", flush=True)


def limits(threads: int) -> None:
    """Print what memory can do: an update in place and sums of two lists, of 45 MB each."""
    torch.set_num_threads(threads)
    theta, grad = torch.randn(11_159_232), torch.randn(11_159_232)
    steps: dict[str, Step] = {
        "update": lambda: theta.add_(grad, alpha=LR),
        "sums": lambda: torch.dot(theta, grad),
    }
    times = measure(steps, lambda: None, 2.0, threads, 1)
    for (name, found), size in zip(times.items(), MEMORY, strict=True):
        speed = size * theta.numel() / statistics.median(found) / 1e9
        print(f"threads {threads}: {name} {speed:.1f} GB/s")


def processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--threads", type=int, action="append", help="both 1 and 2 if not given")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row")
    options = parser.parse_args()
    for case in options.cases:
        if case not in SHAPES:
            parser.error(f"{case!r}: known cases are {', '.join(SHAPES)}")
    print(processor(), f"torch {torch.__version__}, numba {numba.__version__}", time.strftime("%F"))
    for threads in options.threads or (1, 2):
        limits(threads)
        for case in options.cases or SHAPES:
            table(case, threads, options.seconds)


if __name__ == "__main__":
    main()
