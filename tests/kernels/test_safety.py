"""No input ends in a signal or in garbage: what does not fit is refused by name."""

import json
import os
import subprocess
import sys

import pytest

from .safety_cases import CASES

PLAIN = "ValueError: parameters must be dense tensors with memory of their own; got "
FIT = "a parameter of shape (6, 5)"
OVERLAP = "ValueError: two of the tensors to write"

# What a case raises begins with this; the others do not raise.
REFUSED = {
    "dtensor_beside_sharded_steps": "ValueError: parameters must be dense tensors with memory of "
    "their own; got torch.distributed.tensor.DTensor of shape (6, 5)",
    "wrapper_subclass": PLAIN + "torch.testing._internal.two_tensor.TwoTensor",
    "wrapper_subclass_gradient": "ValueError: gradients must be plain floating-point tensors; got "
    "torch.testing._internal.two_tensor.TwoTensor",
    "fake_parameters": PLAIN + "torch._subclasses.fake_tensor.FakeTensor",
    "step_inside_fake_mode": "RuntimeError: inside FakeTensorMode",
    "statistics_inside_fake_mode": "ValueError: a plain tensor was expected",
    "loaded_momentum_of_another_shape": "ValueError: a momentum buffer of shape (60, 5) for " + FIT,
    "momentum_of_another_shape": "ValueError: a momentum buffer of shape (2,) for " + FIT,
    "projected_outputs_too_small": "ValueError: an output of shape (2,) on cpu for " + FIT,
    "projected_outputs_too_few": "ValueError: got 1 outputs for 2 parameters",
    "projected_outputs_overlap": OVERLAP,
    "statistics_of_meta_gradients": "ValueError: a gradient of shape (3, 3) on meta",
    "statistics_with_a_meta_rate": "ValueError: a learning rate on meta",
    "statistics_of_gradients_of_another_shape": "ValueError: a gradient of shape (3, 3) on cpu for "
    "a tensor of shape (300, 3)",
    "statistics_of_too_few_gradients": "ValueError: got 1 gradients for 2 tensors",
    "resized_under_a_gradient": "ValueError: a gradient of shape (6, 5) on cpu for a tensor of "
    "shape (600, 5)",
    "storage_freed": "ValueError: Parameter of shape (6, 5) needs 120 bytes",
    "storage_cut": "ValueError: Tensor of shape (600, 50) needs 120000 bytes",
    "radii_of_another_model": "ValueError: a radius of shape (61,) where 7 spheres are",
    "another_scope_later": "ValueError: a radius of shape (1,) where 7 spheres are",
    "a_radius_resized": "ValueError: expected values of shape (7,); got (1,)",
    "expanded_parameters": "ValueError: the elements of a tensor must not overlap",
    "parameters_that_share_memory": OVERLAP,
    "parameters_that_overlap_later": OVERLAP,
    "sparse_parameters": PLAIN + "a tensor of layout torch.sparse_coo",
    "traced": "RuntimeError: inside ProxyTorchDispatchMode",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    found = subprocess.run(
        [sys.executable, "-m", "tests.kernels.safety_cases"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(found.stdout)


@pytest.mark.parametrize("case", CASES)
def test_nothing_ends_in_a_signal_or_in_garbage(case, outcomes):
    expected = REFUSED.get(case, "fine")
    assert outcomes[case][: len(expected)] == expected
