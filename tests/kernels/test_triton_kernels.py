"""Runs the cases of `triton_cases.py` and those beside it in processes of their own.

Triton reads TRITON_INTERPRET when a kernel is defined, and what is defined for the interpreter
cannot be compiled; so the two do not share a process.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed here")

NAMES = "triton_cases.py", "augment_triton_cases.py", "mlp_triton_cases.py"
NAMES += "norm_triton_cases.py", "loss_triton_cases.py", "copies_triton_cases.py"
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")

REFUSED = pytest.mark.skipif(
    triton.__version__.startswith("3.6.")
    and np.lib.NumpyVersion(np.__version__) >= np.lib.NumpyVersion("2.4.0"),
    reason="triton 3.6's interpreter takes int() of arrays of one element: numpy 2.4 refuses that",
)
# So it does up to numpy 2.3, which only warns.
ONE_ELEMENT = "ignore:Conversion of an array with ndim > 0 to a scalar:DeprecationWarning"


def run_cases(name: str, environment: dict[str, str], *options: str) -> None:
    pytest_here = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x"]
    command = [*pytest_here, *options, str(Path(__file__).with_name(name))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@REFUSED
@pytest.mark.parametrize("name", NAMES)
def test_cases_hold_in_the_interpreter(name):
    run_cases(name, {**os.environ, "TRITON_INTERPRET": "1"}, "-W", ONE_ELEMENT)


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("name", NAMES)
def test_cases_hold_on_the_device(name):
    run_cases(name, {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"})
