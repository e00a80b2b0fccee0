"""What a machine may lack, FFCV, a browser, Slurm or a library: its tests are skipped there.

FASTTRAIN_REQUIRE_OPTIONAL=1 makes failures of such skips;
FASTTRAIN_HIDE_FFCV=1 makes a machine that has FFCV one that has not.
"""

import functools
import os
import sys
from pathlib import Path

import hypothesis
import pytest

# The same examples everywhere, however slow the machine is.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("same")

REQUIRED = os.environ.get("FASTTRAIN_REQUIRE_OPTIONAL") == "1"
HERE = Path(__file__).parent

if os.environ.get("FASTTRAIN_HIDE_FFCV") == "1":
    # From the programs that tests start, too.
    path = [str(HERE / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    sys.path.insert(0, path[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `optional` what another machine may do otherwise: data, the page, Slurm's script."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if HERE / "data" in item.path.parents or {"ffcv", "chromium", "slurm"} & set(fixtures):
            item.add_marker(pytest.mark.optional)


@pytest.fixture(autouse=True)
def own_threads():
    """Every test begins with the threads that the first one had, whatever others have set."""
    import torch

    torch.set_num_threads(_threads())


@pytest.fixture(autouse=True)
def own_numbers():
    """What a test draws without a seed of its own does not depend on the tests before it."""
    import torch

    torch.manual_seed(0)


@functools.cache
def _threads() -> int:
    import torch

    return torch.get_num_threads()


@pytest.fixture(scope="session")
def ffcv():
    """The module."""
    import warnings

    from fasttrain_data import DataUnavailable
    from fasttrain_data.ffcv.loader import import_ffcv

    try:
        with warnings.catch_warnings():
            # Its dependencies use parts of Python and torch that newer versions deprecate.
            warnings.simplefilter("ignore")
            return import_ffcv()
    except DataUnavailable as error:
        if REQUIRED:
            pytest.fail(str(error))
        pytest.skip(str(error))
