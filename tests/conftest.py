"""FFCV where it can be loaded; elsewhere its tests are skipped, or fail if they are required."""

import os

import pytest

from fasttrain_data import DataUnavailable

REQUIRED = os.environ.get("FASTTRAIN_REQUIRE_FFCV") == "1"


@pytest.fixture(scope="session")
def ffcv():
    """The module. FASTTRAIN_REQUIRE_FFCV=1 makes a failure of what is else a skip."""
    import warnings

    from fasttrain_data.ffcv_loader import import_ffcv

    try:
        with warnings.catch_warnings():
            # Its dependencies use parts of Python and torch that newer versions deprecate.
            warnings.simplefilter("ignore")
            return import_ffcv()
    except DataUnavailable as error:
        if REQUIRED:
            pytest.fail(str(error))
        pytest.skip(str(error))
