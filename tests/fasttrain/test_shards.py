"""Shards: parts of a plan that have nothing in common, need nothing of each other, and are fair."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fasttrain.cli.main import run
from fasttrain.errors import UsageError
from fasttrain.plan.config import check
from fasttrain.plan.shards import Shard, num_epochs_of
from fasttrain.plan.stages import predecessors
from fasttrain.plan.trees import build
from fasttrain.store.status import read_plan

from .conftest import TINY, contents, ended
from .stored import SETUP

UNEVEN = [
    [{"lr": [1.0, 2.0, 3.0], "epochs": 7}, {"lr": [0.1, 0.2], "epochs": 11, "k": [2, 4]}],
    [{"lr": [1.0, 5.0], "epochs": 9}],
    [{"lr": 1.0, "epochs": 20}, {"lr": [0.3, 0.4, 0.5], "epochs": 40}],
]
PLANS = {
    "one seed": {"grid": {"plr": "1e-3:1e0:7", "flr": [1e-3], "k": [2, 5]}},
    "seeds": {"grid": {"plr": "1e-3:1e0:5", "flr": [1e-3, 1e-2], "k": [3], "seeds": 4}},
    "a seed for each rate": {"grid": {"plr": "1e-3:1e0:9", "flr": [1e-3], "seeds": "per-rate"}},
    "averages of the last": {"grid": {"plr": [0.1, 0.2, 0.3], "k": [1, 5], "averaged": "last"}},
    "uneven chains": {"experiment": {"kind": "chain", "legs": UNEVEN}, "grid": {"seeds": 2}},
}
COUNTS = (1, 3, 8, 50)


def plan(table):
    setup = tuple((name, json.dumps(part, sort_keys=True)) for name, part in SETUP.items())
    return build(check({"data": {"dataset": "digits"}, **table}, "here"), setup)


@pytest.mark.parametrize("table", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("count", COUNTS)
def test_shards_are_a_partition_of_whole_subtrees(table, count):
    stages = plan(table)
    parts = [Shard(index + 1, count).part(stages) for index in range(count)]
    where = {stage.id: index for index, part in enumerate(parts) for stage in part}
    assert sum(map(len, parts)) == len(where) == len(stages)
    for stage in stages:
        if stage.parent is not None:
            assert where[stage.id] == where[stage.parent.id]
        # What is longer goes on from what is shorter.
        for shorter in predecessors(stage, {s.num_epochs for s in stages}):
            assert where.get(shorter.id, where[stage.id]) == where[stage.id]
    order = {stage.id: place for place, stage in enumerate(stages)}
    for part in parts:
        places = [order[stage.id] for stage in part]
        assert places == sorted(places)


@pytest.mark.parametrize("table", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("count", COUNTS)
def test_no_shard_is_further_from_its_even_share_than_the_largest_subtree(table, count):
    stages = plan(table)
    epochs = [num_epochs_of(Shard(index + 1, count).part(stages)) for index in range(count)]
    roots = {(stage.seed, stage.plr) for stage in stages}
    trees = [[s for s in stages if (s.seed, s.plr) == root] for root in roots]
    total, largest = num_epochs_of(stages), max(map(num_epochs_of, trees))
    assert sum(epochs) == total
    assert all(abs(own - total / count) <= largest for own in epochs)


def test_a_longer_leg_costs_what_it_adds():
    """Averages of the last epochs are of the same run: 60 epochs, whatever is read of it."""
    stages = plan({"grid": {"plr": [0.1], "flr": [], "k": [1, 5], "averaged": "last"}})
    assert num_epochs_of(stages) == 60 + 4
    assert len(Shard(1, 1).part(stages)) == len(stages) > 3


def test_equal_subtrees_fill_every_shard_evenly():
    stages = plan(PLANS["seeds"])
    sizes = [len(Shard(index + 1, 4).part(stages)) for index in range(4)]
    assert sizes == [len(stages) // 4] * 4
    # One seed each: only stages of one seed can be a pack.
    assert [{s.seed for s in Shard(i + 1, 4).part(stages)} for i in range(4)] == [
        {0},
        {1},
        {2},
        {3},
    ]


BAD = ["0/4", "5/4", "x", "", "1/0", "1/4/2", "-1/4", "1 / 4", "٣/4", "1/100001", "1.0/4", "9" * 99]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_shard_is_refused_by_name(text):
    with pytest.raises(UsageError, match="^--shard ") as raised:
        Shard.read(text)
    assert str(raised.value).isprintable()


def test_the_plan_and_the_status_say_what_belongs_to_a_shard(fasttrain, tiny, tmp_path):
    options = (tiny, "--plr", "1e-3,1e-2,1e-1", "--pack", "2", "--processes", "1")
    shown = fasttrain("sweep", *options, "--shard", "2/3", "--dry-run").out
    words = "shard 2/3: 4 of 12 stages, 7 of 21 epochs: pretrain plr 0.01 seed 0, and all that"
    assert words in shown and not (tmp_path / "runs").exists()
    assert fasttrain("sweep", *options, "--shard", "2/3").code == 0
    store = tmp_path / "runs" / "tiny-2-of-3"
    assert fasttrain("status", store).out == f"{store}: finished: 4 of 4 stages of shard 2/3.\n"
    (planned,) = read_plan(store)
    assert planned.shard == "2/3" and len(planned.stages) == 4
    assert {about["plr"] for about in planned.stages.values()} == {0.01}
    # More parts than there are subtrees: some have nothing, and say so.
    empty = fasttrain("sweep", *options, "--shard", "1/9")
    assert empty.code == 0 and "shard 1/9: 0 of 12 stages, 0 of 21 epochs\n" in empty.out


def test_sigterm_keeps_a_shards_checkpoint_and_the_same_command_goes_on(tmp_path, monkeypatch):
    """What a cluster sends before it takes the machine away."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text(TINY.replace("epochs = 3", "epochs = 80"))
    arguments = ["sweep", "grid.toml", "--shard", "1/2", "--processes", "1", "--pack", "1", "--k"]
    arguments += ["none", "--flr", "none", "--compile", "off"]
    program = [sys.executable, "-m", "fasttrain", *arguments, "--store", "stopped"]
    program += ["--checkpoint-s", "0"]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("stopped/checkpoints/*.safetensors")) and not ended(process):
        pass
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 143
    assert b"to resume, run again: fasttrain sweep grid.toml --shard 1/2" in errors
    assert len(list(tmp_path.glob("stopped/checkpoints/*.safetensors"))) == 1
    assert not list(tmp_path.glob("stopped/*/done.json"))
    for store in ("stopped", "whole"):
        assert run([*arguments, "--store", store, "--quiet"]) == 0
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole") != {}


@pytest.mark.parametrize(("code", "again"), [(0, ""), (1, ""), (143, "requeue 7_3\n")])
def test_the_array_script_requeues_what_was_stopped_and_nothing_else(tmp_path, code, again):
    """With programs in the place of Slurm's that note what they are told."""
    script = Path(__file__).parents[2] / "docs" / "examples" / "slurm_array.sh"
    notes = {"srun": f'echo "$@" > ran; exit {code}', "scontrol": 'echo "$@" > asked'}
    for name, text in notes.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").write_text("")
    slurm = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "7"}
    done = subprocess.run(
        ["bash", script, "digits", "--plr", "1e-3,1e-2"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **slurm},
    )
    assert done.returncode == code
    assert (tmp_path / "ran").read_text() == (
        "fasttrain sweep digits --plr 1e-3,1e-2 --shard 3/8\n"
    )
    assert (tmp_path / "asked").read_text() == again
