"""What is asked of Ray before it is there: options, how a cluster is shared, a job of Slurm."""

import io
import os
import subprocess
import zlib
from pathlib import Path
from unittest.mock import Mock

import pytest

from fasttrain.errors import EnvironmentProblem
from fasttrain.execution.console import Console
from fasttrain.execution.engines.ray_cluster import MOST_SIGNS, Cluster, Node, Room
from fasttrain.execution.engines.ray_data import Images, _own
from fasttrain.execution.live import TerminalView
from fasttrain.plan.config import RunOptions
from fasttrain_data import DataError

from .conftest import ended

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "slurm_ray.sh"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--engine", "rya"), "did you mean 'ray'?"),
        (("--address", "auto"), "--address auto: needs --engine ray"),
        (("--per-gpu", "2"), "--per-gpu 2: needs --engine ray"),
        (("--engine", "ray", "--address", "ray://head:10001"), "with --address auto or HOST:PORT"),
        (("--engine", "ray", "--address", "head"), "allowed are auto and HOST:PORT"),
        (("--engine", "ray", "--device", "cuda:1"), "allowed are auto, cpu, cuda"),
    ],
)
@pytest.mark.parametrize("command", [("sweep", "digits"), ("analyse", "store")])
def test_options_that_do_not_go_together_are_one_line(fasttrain, monkeypatch, command, flags, said):
    monkeypatch.setattr("fasttrain.plan.engines.find_spec", _installed)
    found = fasttrain(*command, *flags)
    assert found.code == 2
    assert said in found.err and found.err.count("\n") == 1


def _installed(name):
    return type("Spec", (), {"origin": f"{name}/__init__.py"})


@pytest.mark.parametrize("command", [("locate", "digits"), ("analyse", "store")])
def test_without_ray_the_line_says_what_installs_it(fasttrain, monkeypatch, command):
    monkeypatch.setattr("fasttrain.plan.engines.find_spec", lambda name: None)
    found = fasttrain(*command, "--engine", "ray")
    assert found.code == 2
    assert "pip install 'fasttrain-lr[ray]'" in found.err and found.err.count("\n") == 1


def of_nodes(*nodes: tuple[float, float]) -> Cluster:
    """A cluster of machines with so many CPUs and GPUs each."""
    found = Cluster("head:6379", mine=False)
    found.nodes = lambda: [Node(f"n{i}", f"10.0.0.{i}", *node) for i, node in enumerate(nodes)]
    return found


@pytest.mark.parametrize(
    ("nodes", "count", "options", "room"),
    [
        # As many packs as CPUs, and no more than there are; the threads of what is left.
        ([(4, 0), (4, 0)], 100, {}, Room(8, 1, 1.0, 0.0)),
        ([(4, 0), (4, 0)], 2, {}, Room(2, 4, 4.0, 0.0)),
        ([(4, 0), (4, 0)], 1, {}, Room(1, 4, 4.0, 0.0)),
        ([(4, 0), (4, 0)], 100, {"processes": 4}, Room(4, 2, 2.0, 0.0)),
        # 10 CPUs for 3 packs are 3 each, but no node of 2 has room for those.
        ([(8, 0), (2, 0)], 3, {}, Room(3, 2, 2.0, 0.0)),
        # On GPUs, if there are any: the CPUs of the node that has fewest for each.
        ([(16, 4), (8, 4), (32, 0)], 100, {}, Room(8, 2, 2.0, 1.0)),
        ([(16, 4), (8, 4)], 100, {"per_gpu": 3}, Room(24, 1, 8 / 12, 1 / 3)),
        ([(16, 4), (8, 4)], 100, {"device": "cpu"}, Room(24, 1, 1.0, 0.0)),
    ],
)
def test_packs_share_the_nodes(nodes, count, options, room):
    assert of_nodes(*nodes).room(count, RunOptions(engine="ray", **options)) == room


@pytest.mark.parametrize(
    ("nodes", "options", "said"),
    [
        ([(4, 0)], {"device": "cuda"}, "nodes 1, CPUs 4, GPUs 0: packs need a GPU"),
        ([(0, 0)], {}, "nodes 1, CPUs 0, GPUs 0: packs need a CPU"),
        ([(0, 0)], {"processes": 2}, "packs need a CPU"),
        ([(4, 0), (4, 0)], {"processes": 9}, "--processes 9: .* at most 8 packs"),
        ([(16, 2)], {"processes": 5, "per_gpu": 2}, "at most 4 packs train there at once, 2 a GPU"),
    ],
)
def test_what_there_is_not_is_said(nodes, options, said):
    with pytest.raises(EnvironmentProblem, match=said):
        of_nodes(*nodes).room(100, RunOptions(engine="ray", **options))


def test_a_cluster_that_has_shrunk_is_told_from_one_that_is_busy():
    room = Room(4, 2, 2.0, 0.0)
    of_nodes((1, 0), (2, 0)).check(room)
    with pytest.raises(EnvironmentProblem, match="nodes 2, CPUs 2, GPUs 0: none is left"):
        of_nodes((1, 0), (1, 0)).check(room)
    with pytest.raises(EnvironmentProblem, match="nodes 0, CPUs 0, GPUs 0: none is left"):
        of_nodes().check(room)


@pytest.mark.parametrize(
    ("address", "mode", "said"),
    [
        ("127.0.0.1", "", ""),
        ("10.0.0.7", "token", "whoever has its token"),
        ("10.0.0.7", "", "without a token"),
    ],
)
def test_a_cluster_that_is_open_to_the_network_is_warned_of(monkeypatch, address, mode, said):
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    found = Cluster("auto", mine=True)
    found.nodes = lambda: [Node("n", address, 4, 0)]
    assert ("warning: " in found.explain()) == bool(said)
    assert said in found.explain()


PROGRAMS = {
    "ray": """[ "$1" = symmetric-run ] || { echo "$@" > token; exit; }
echo "$@" > started
while [ "$1" != -- ]; do shift; done
shift
"$@"
""",
    "srun": '[ "$1" = --cpus-per-task=4 ] && shift && exec "$@"',
    "scontrol": '[ "$1" = show ] && echo node7 && echo node8 || echo "$@" > asked',
    "fasttrain": """echo "$@" > ran
[ {code} -ne 143 ] && exit {code}
trap 'exit 143' TERM
touch waits
while true; do sleep 0.01; done
""",
}
"""what is in the place of Slurm's programs, Ray's and ours, and notes what it is told"""


@pytest.mark.parametrize(("code", "again"), [(0, ""), (1, ""), (143, "requeue 12345\n")])
def test_the_script_of_a_job_stops_the_sweep_and_requeues_it(tmp_path, code, again):
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text.replace('{code}', str(code))}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").write_text("")
    slurm = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2"}
    job = subprocess.Popen(
        ["bash", SCRIPT, "digits", "--plr", "1e-3,1e-2"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "4", **slurm},
    )
    if code == 143:
        while not (tmp_path / "waits").exists() and not ended(job):
            pass
        job.terminate()
    assert job.wait(timeout=600) == code
    assert (tmp_path / "token").read_text() == "get-auth-token --generate\n"
    assert (
        (tmp_path / "started")
        .read_text()
        .startswith("symmetric-run --address node7:22345 --min-nodes 2 --num-cpus 4 -- ")
    )
    assert (tmp_path / "ran").read_text() == (
        "sweep digits --plr 1e-3,1e-2 --engine ray --address auto\n"
    )
    assert (tmp_path / "asked").read_text() == again


def test_a_process_that_served_another_sweep_is_set_up_anew(tmp_path, monkeypatch):
    """Of the same store, in the same minute, with another setting."""
    from dataclasses import replace

    from fasttrain.execution.engines import ray_trial
    from fasttrain.execution.engines.ray_trial import Setting, workbench_here
    from fasttrain.plan.config import Config
    from fasttrain.settings.data.named import Named
    from fasttrain_data import load

    monkeypatch.setattr(ray_trial, "images_here", lambda images, *_: (images, ""))

    def setting(batch_size):
        config = Config(data=Named(kind="digits"))
        config = replace(config, training=replace(config.training, batch_size=batch_size))
        shared = (load("digits"), "cpu", "fp32", {"date": "2026-01-01"}, False, 1, tmp_path)
        return Setting(config, RunOptions(), *shared)

    first, second = setting(64), setting(128)
    workbench = workbench_here(first, tmp_path / "a")
    assert workbench_here(first, tmp_path / "b") is workbench
    assert workbench_here(second, tmp_path / "b").config.training.batch_size == 128


def test_what_a_node_tells_is_one_line_said_once(capsys):
    cluster = of_nodes((1, 0))
    for note in ("a\nb\x1b[2J", "a\nb\x1b[2J", "n\udcc3\udcafve", "c" * 10 * MOST_SIGNS):
        cluster.say(note)
    lines = ["a\\nb\\x1b[2J", "n\u00efve", "c" * MOST_SIGNS]
    assert capsys.readouterr().err.splitlines() == lines
    with pytest.raises(EnvironmentProblem, match="a node told of a list, not of a text"):
        cluster.say(["a"])


def test_what_a_node_tells_goes_through_a_live_table(capsys):
    told = io.StringIO()
    live = TerminalView("the table", Console(file=told, force_terminal=True))
    live.start()
    of_nodes((1, 0)).say("of a node")
    live.stop()
    assert "of a node\n" in told.getvalue() and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EOFError("ended\nearly"), "cannot be used (EOFError: ended early); it takes"),
        (zlib.error("Error -3"), "cannot be used (error: Error -3); it takes"),
        (DataError("no file"), "cannot be used (no file); it takes"),
    ],
)
def test_images_that_cannot_be_read_on_a_node_are_said_and_those_of_the_driver_serve(error, said):
    class Data:
        dataset = "images.npz"

        def load_here(self, root):
            raise error

    found, note = _own(Images("0" * 64, "images.npz", "node", None), Mock(data=Data()), None)
    assert found is None and said in note and note.startswith("node ")
