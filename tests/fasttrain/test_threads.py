"""Workers compute with the threads that they were given, whatever pool numba would take.

numba takes the first of its layers that it can load; that of OpenMP shares its team with torch.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import contents

pytestmark = pytest.mark.optional


def layers() -> list:
    """numba's layers, each as the first choice."""
    lacking = []
    try:
        from numba.np.ufunc import tbbpool  # noqa: F401
    except ImportError as error:
        lacking = [pytest.mark.skip(reason=f"numba's layer tbb cannot be loaded: {error}")]
    return [
        "omp workqueue tbb",
        "workqueue omp tbb",
        pytest.param("tbb omp workqueue", marks=lacking),
    ]


def fasttrain(folder: Path, *arguments: str | Path, **environment: str):
    """Run a command in a process of its own, in the folder; returns what became of it."""
    return subprocess.run(
        [sys.executable, "-m", "fasttrain", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def sweep(folder: Path, tiny: Path, processes: int, *options: str, **environment: str):
    """Run the tiny grid into the store "1" or "2", by the number of processes, in equal packs."""
    store = ("--processes", str(processes), "--store", str(processes))
    return fasttrain(folder, "sweep", tiny, "--pack", "1", *store, *options, **environment)


def recorded(store: Path) -> set[str]:
    """The numbers of threads that the stages of a store were made with."""
    return {
        json.loads(path.read_text())["provenance"]["threads"] for path in store.glob("*/done.json")
    }


@pytest.mark.parametrize("layer", layers())
def test_workers_have_their_threads_and_the_bits_of_one_process(tmp_path, tiny, layer):
    how = {"NUMBA_THREADING_LAYER_PRIORITY": layer}
    # One thread each, of this process's two.
    two = sweep(tmp_path, tiny, 2, OMP_NUM_THREADS="2", **how)
    assert two.returncode == 0, two.stderr
    assert "in 2 processes, 1 threads each" in two.stdout
    assert recorded(tmp_path / "2") == {"1"}
    one = sweep(tmp_path, tiny, 1, OMP_NUM_THREADS="1", **how)
    assert one.returncode == 0, one.stderr
    assert "in this process, 1 threads" in one.stdout
    assert recorded(tmp_path / "1") == {"1"}
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("layer", layers())
def test_ffcv_leaves_workers_their_threads(tmp_path, tiny, layer, ffcv):
    how = {"NUMBA_THREADING_LAYER_PRIORITY": layer, "FASTTRAIN_DATA": str(tmp_path / "data")}
    streamed = sweep(tmp_path, tiny, 2, "--loader", "ffcv", OMP_NUM_THREADS="2", **how)
    assert streamed.returncode == 0, streamed.stderr
    assert recorded(tmp_path / "2") == {"1"}


def test_one_process_has_all_threads_and_says_so(tmp_path, tiny):
    one = sweep(tmp_path, tiny, 1, OMP_NUM_THREADS="2")
    assert one.returncode == 0, one.stderr
    assert "in this process, 2 threads" in one.stdout
    assert recorded(tmp_path / "1") == {"2"}


def test_numbas_own_pool_is_never_started(tmp_path, tiny):
    code = """if True:
        import sys
        import numba
        from fasttrain.cli.main import run
        assert run(sys.argv[1:]) == 0
        try:
            sys.exit(f"started: {numba.threading_layer()}")
        except ValueError as error:
            print(error)
    """
    grid = ("sweep", str(tiny), "--processes", "1", "--quiet")
    outcome = subprocess.run(
        [sys.executable, "-c", code, *grid], cwd=tmp_path, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "Threading layer is not initialized" in outcome.stdout


def threads_that_stay(folder: Path) -> dict[str, str]:
    """An environment in which torch keeps its two threads, as a library that sets them would."""
    (folder / "sitecustomize.py").write_text(
        "import torch\ntorch.set_num_threads = lambda count: None\n"
    )
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return {"OMP_NUM_THREADS": "2", "PYTHONPATH": path}


def test_a_worker_with_other_threads_ends_the_sweep(tmp_path, tiny):
    outcome = sweep(tmp_path, tiny, 2, **threads_that_stay(tmp_path))
    assert outcome.returncode == 1
    assert "a worker that was given 1 threads computes with 2" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not recorded(tmp_path / "2")


def test_a_worker_with_other_threads_ends_an_analysis(tmp_path, tiny):
    assert sweep(tmp_path, tiny, 1, "--quiet").returncode == 0
    command = ("analyse", "1", "--only", "features", "--processes", "2")
    outcome = fasttrain(tmp_path, *command, **threads_that_stay(tmp_path))
    assert outcome.returncode == 1
    assert "a worker that was given 1 threads computes with 2" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not list((tmp_path / "1" / "analyses").glob("*/done.json"))
