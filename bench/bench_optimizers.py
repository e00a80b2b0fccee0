"""One optimiser step on the sphere: ours against the other ways of `bench.optimizer_variants`.

Run with `make bench` (pytest-benchmark); `fasttrain bench kernels` times the same interleaved, with
bytes and per cent of the copy bandwidth.
"""

import pytest

from bench.optimizer_variants import CASES, Problem, variants

VARIANTS = variants()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES)
def bench_step(benchmark, case, variant):
    benchmark.group = f"optimiser step, {CASES[case].name}"
    step, _ = VARIANTS[variant].make(Problem.of(CASES[case]))
    step()
    benchmark(step)
