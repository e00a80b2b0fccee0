"""Exports read back: by the tools' own libraries, as tables, and what an export may replace."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import fasttrain as ft
from fasttrain.export import command
from fasttrain.export.command import export
from fasttrain.export.folder import MARKER
from fasttrain.export.runs import Run
from fasttrain.export.tables import escaped
from fasttrain.store.tables import load, load_epochs

GRID = {"plr": [1e-2, 1e-1], "flr": [1e-2], "k": [2], "epochs": 2, "finetune_epochs": 1, "seeds": 2}
SMALL = {"n_train": 150, "n_test": 60, "width": 2}
HOW = {"processes": 1, "pack": 4, "device": "cpu"}
LIBRARIES = ("tensorboard", "wandb", "mlflow")

# The libraries' own warnings are no matter of ours.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "grid"
    ft.sweep(ft.study("digits", **GRID, **SMALL), store=path, **HOW)
    return path


def library(name: str) -> None:
    """Skip without a tool's library; FASTTRAIN_REQUIRE_OPTIONAL=1 makes that a failure."""
    try:
        __import__(f"{name}.version" if name == "mlflow" else name)
    except ImportError:
        is_needed = os.environ.get("FASTTRAIN_REQUIRE_OPTIONAL") == "1"
        lacking = pytest.fail if is_needed else pytest.skip
        lacking(f"{name} is not installed (the extra {name})")


def read_tensorboard(folder: Path) -> dict[str, dict]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = {}
    for path in folder.glob("*/*"):
        events = EventAccumulator(str(path)).Reload()
        series = {
            name: {event.step: event.value for event in events.Scalars(name)}
            for name in events.Tags()["scalars"]
        }
        metadata = events.SummaryMetadata("_hparams_/session_start_info")
        from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

        given = parse_session_start_info_plugin_data(metadata.plugin_data.content).hparams
        runs[given["stage"].string_value] = {
            "series": series,
            "study": path.parent.name,
            "plr": given["plr"].number_value,
        }
    return runs


def wandb_records(path: Path):
    """The records of a .wandb file: LevelDB's log format, which the library reads in Go alone."""
    data = path.read_bytes()
    at, parts = 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            # What is left of a block is padding.
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        # Whole, or the last part.
        if kind in (1, 4):
            yield parts
            parts = b""


def read_wandb(folder: Path) -> dict[str, dict]:
    from wandb.proto.wandb_internal_pb2 import Record

    runs = {}
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        run: dict = {"series": {}}
        for data in wandb_records(path):
            record = Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                config = {u.key: json.loads(u.value_json) for u in record.run.config.update}
                run |= {"study": record.run.run_group, "id": record.run.run_id}
                run |= {"plr": config["plr"]}
            elif kind == "history":
                items = {(i.key or i.nested_key[0]): i.value_json for i in record.history.item}
                values = {name: json.loads(value) for name, value in items.items()}
                step = values.pop("_step", record.history.step.num)
                for name, value in values.items():
                    run["series"].setdefault(name, {})[step] = value
            elif kind == "summary":
                for item in record.summary.update:
                    name = item.key or item.nested_key[0]
                    if name.startswith("final/"):
                        run["series"][name] = {0: json.loads(item.value_json)}
        runs[run["id"]] = run
    return runs


def read_mlflow(folder: Path) -> dict[str, dict]:
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient((folder / "mlruns").as_uri())
    runs = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            assert run.info.artifact_uri.startswith((folder / "mlruns").as_uri())
            assert run.info.status == "FINISHED"
            series = {
                name: {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
                for name in run.data.metrics
            }
            runs[run.data.params["stage"]] = {
                "series": series,
                "study": experiment.name,
                "plr": float(run.data.params["plr"]),
            }
    return runs


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow}


def check_runs(runs: dict[str, dict], store: Path) -> None:
    """Every stage of a store is a run with its values, and nothing else is."""
    stages = load(store).set_index("stage")
    assert set(runs) == set(stages.index)
    assert len({run["study"] for run in runs.values()}) == 1
    epochs = load_epochs(store)
    for stage, run in runs.items():
        assert run["plr"] == pytest.approx(stages.plr[stage])
        series = run["series"]
        (final,) = series["final/accuracy/test"].values()
        assert final == pytest.approx(stages.test_accuracy[stage])
        if stages.kind[stage] == "swa":
            assert all(name.startswith("final/") for name in series if name[0] != "_")
            continue
        table = epochs[epochs["stage"] == stage].set_index("epoch")
        for name, column in (("loss/train", "train_loss"), ("accuracy/test", "test_accuracy")):
            known = {e: v for e, v in table[column].items() if not math.isnan(v)}
            assert series[name] == pytest.approx(known)
        assert set(series["grad_norm/train"]) == set(table.index) == set(series["elr"])


@pytest.mark.optional
@pytest.mark.parametrize("tool", LIBRARIES)
def test_an_export_read_back_by_the_library_has_every_stage_and_value(store, tmp_path, tool):
    library(tool)
    out = tmp_path / "out"
    for _ in range(2):
        # The second one takes the place of the first.
        assert export(store, tool, out).startswith("12 stages: ")
        check_runs(READERS[tool](out), store)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.optional
@pytest.mark.parametrize("tool", LIBRARIES)
def test_what_is_logged_while_a_study_trains_is_what_an_export_has(store, tmp_path, tool):
    library(tool)
    study = ft.study("digits", **GRID, **SMALL)
    live = tmp_path / "live" / ("mlruns" if tool == "mlflow" else "")
    ft.sweep(study, store=tmp_path / "s", callbacks=[ft.log_to(tool, live)], **HOW)
    check_runs(READERS[tool](tmp_path / "live"), tmp_path / "s")


def test_csv_has_every_stage_and_every_value(store, tmp_path):
    export(store, "csv", tmp_path / "out")
    stages = pd.read_csv(tmp_path / "out" / "stages.csv")
    assert set(stages["stage"]) == set(load(store)["stage"])
    series = pd.read_csv(tmp_path / "out" / "series.csv")
    epochs = load_epochs(store)
    for name, column in (("loss/train", "train_loss"), ("accuracy/test", "test_accuracy")):
        mine = series[series["name"] == name].set_index(["stage", "epoch"])["value"]
        theirs = epochs.dropna(subset=column).set_index(["stage", "epoch"])[column]
        assert mine.to_dict() == pytest.approx(theirs.to_dict())


def test_latex_has_a_row_a_rate_with_mean_and_deviation_over_seeds(store, tmp_path):
    export(store, "latex", tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*.tex")
    text = path.read_text()
    rows = [line.strip() for line in text.splitlines() if line.strip().startswith("0.")]
    assert [row.split(" & ")[0] for row in rows] == ["0.01", "0.1"]
    assert all(row.count("&") == 3 for row in rows) and "PLR & pre-trained & FLR 0.01" in text
    cell = load(store).query("kind == 'pretrain' and plr == 0.01")["test_accuracy"]
    assert f"${100 * cell.mean():.2f} \\pm {100 * cell.std():.2f}" in rows[0]
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")


def test_signs_of_latex_are_escaped():
    assert escaped(r"a_b%\{") == r"a\_b\%\textbackslash{}\{"


def test_an_export_that_fails_leaves_the_one_before(store, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export(store, "csv", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def half(path, folder):
        (folder / "stages.csv").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "write_csv", half)
    with pytest.raises(KeyboardInterrupt):
        export(store, "csv", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_no_export_wrote_is_never_replaced(store, fasttrain, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    refused = fasttrain("export", store, "--to", "csv", "--out", out)
    assert refused.code == 2 and "is not an export" in refused.err
    (out / "mine.txt").unlink()
    assert fasttrain("export", store, "--to", "csv", "--out", out).code == 0
    (out / "mine.txt").write_text("mine")
    added = fasttrain("export", store, "--to", "csv", "--out", out)
    assert added.code == 2 and "mine.txt was added or changed since the export" in added.err
    (out / "mine.txt").unlink()
    (out / "stages.csv").write_text("changed")
    changed = fasttrain("export", store, "--to", "csv", "--out", out)
    assert changed.code == 2 and "stages.csv was added or changed" in changed.err
    assert (out / "stages.csv").read_text() == "changed" and (out / MARKER).exists()


def test_a_link_and_the_store_itself_are_refused(store, fasttrain, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (store, store / "in", store.parent, tmp_path / "link"):
        refused = fasttrain("export", store, "--to", "csv", "--out", out)
        assert refused.code == 2 and "--out" in refused.err
    assert len(load(store)) == 12


def test_a_library_that_is_missing_is_one_line_before_torch(store, tmp_path):
    # A folder of its name is no library.
    (tmp_path / "wandb").mkdir()
    code = (
        "import sys, importlib.util as u; found = u.find_spec\n"
        "import importlib.machinery as m\n"
        "u.find_spec = lambda n: m.PathFinder.find_spec(n, ['.']) if n == 'wandb' else found(n)\n"
        "from fasttrain.cli.main import run\n"
        f"code = run(['export', {str(store)!r}, '--to', 'wandb'])\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "pip install 'fasttrain-lr[wandb]'" in done.stderr


def test_a_target_that_is_none_names_the_nearest(store, fasttrain):
    refused = fasttrain("export", store, "--to", "mlflw")
    assert refused.code == 2 and "did you mean 'mlflow'?" in refused.err


def test_probe_sets_and_raw_rates_have_names_of_their_own():
    from fasttrain.export.runs import tag

    assert tag("probe_patch-only_loss") == "loss/patch-only"
    run = Run("id", "name", "study", {"lr": 0.1, "rate": "raw"}, is_average=False)
    assert run.rate == {"lr": 0.1}
