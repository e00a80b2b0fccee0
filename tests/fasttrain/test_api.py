"""The Python interface: studies, sweeps, results, and that mistakes are one line."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import torch

import fasttrain as ft
from fasttrain.api.running import Options
from fasttrain.cli.main import run
from fasttrain.plan.config import RunOptions, load_config
from fasttrain.report import DRAWINGS
from fasttrain.report.figures.catalogue import CHAIN_DRAWINGS
from fasttrain.report.figures.dimensions import DIMENSIONS
from fasttrain.report.figures.sets import SETS
from fasttrain.report.figures.sparsity import SPARSITY
from fasttrain.report.figures.transfer import TRANSFER

from .conftest import contents

GRID = {"plr": [1e-2, 1e-1], "flr": [1e-2], "k": [2], "epochs": 2, "finetune_epochs": 1}
SMALL = {"n_train": 150, "n_test": 60, "width": 2}
HOW = {"processes": 1, "pack": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("api") / "store"


@pytest.fixture(scope="module")
def study() -> ft.Study:
    return ft.study("digits", **GRID, **SMALL)


@pytest.fixture(scope="module")
def results(study, store) -> ft.Results:
    return ft.sweep(study, store=store, **HOW)


def test_keywords_are_keys_of_any_table(tmp_path):
    by_keyword = ft.study("digits", **GRID, **SMALL, flip=True, optimizer={"scope": "filter"})
    path = tmp_path / "same.toml"
    path.write_text(
        """
[data]
dataset = "digits"
n_train = 150
n_test = 60
flip = true
[network]
width = 2
[optimizer]
scope = "filter"
[training]
epochs = 2
finetune_epochs = 1
[grid]
plr = [1e-2, 1e-1]
flr = [1e-2]
k = [2]
"""
    )
    assert ft.study(path).config == by_keyword.config
    assert ft.study(str(path)).name == "same"
    assert ft.study("digits").config == load_config("digits")


def test_a_setting_is_a_file_without_rates():
    setting = ft.Setting(network={"kind": "mlp", "width": 4}, optimizer="adam", batch_size=32)
    study = ft.study(setting, plr=[1e-3], epochs=2)
    keys = {"network": {"kind": "mlp", "width": 4}, "optimizer": {"kind": "adam"}}
    rest = {"plr": [1e-3], "batch_size": 32, "flr": (0.001, 0.01), "k": (2, 5), "seeds": 1}
    lengths = {"epochs": 2, "finetune_epochs": 20}
    assert study.config == ft.study("digits", **keys, **rest, **lengths).config
    assert ft.study(ft.Setting(network=study.config.network)).config.network == study.config.network
    again = eval(repr(study), {"ft": ft})
    assert again.config == study.config and study.name == "setting"


def test_a_table_changes_the_preset_s_unless_it_is_of_another_kind():
    before = load_config("digits-practical").optimizer
    assert before.kind == "sgd" and before.momentum and before.weight_decay
    same = ft.study("digits-practical", optimizer={"momentum": 0.5}).config.optimizer
    assert same == dataclasses.replace(before, momentum=0.5)
    other = ft.study("digits-practical", optimizer={"kind": "adam"}).config.optimizer
    assert (other.kind, other.weight_decay) == ("adam", 0)


def test_arrays_and_ranges_are_lists():
    rates = np.logspace(-3, -1, 3)
    config = ft.study("digits", plr=rates, k=range(2, 5), epochs=np.int64(3), flip=np.True_).config
    assert config.grid.plr == (1e-3, 1e-2, 1e-1)
    assert (config.grid.k, config.training.epochs, config.data.flip) == ((2, 3, 4), 3, True)


def test_a_study_is_written_as_what_makes_it(study):
    assert eval(repr(study), {"ft": ft}) == study


def test_tables_are_of_the_study_and_the_call_resumes(results, study, store, capfd):
    assert list(results.stages["kind"].value_counts()[["pretrain", "finetune", "swa"]]) == [2] * 3
    assert set(results.epochs["stage"]) <= set(results.stages["stage"])
    before = {path: path.stat().st_mtime_ns for path in store.glob("*/done.json")}
    wider = ft.sweep(ft.study("digits", **{**GRID, "plr": 1e-3}, **SMALL), store=store, **HOW)
    again = ft.sweep(study, store=str(store), **HOW)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    pd.testing.assert_frame_equal(again.stages, results.stages)
    assert len(ft.Results(store).stages) == len(wider.stages) + len(results.stages) == 9
    assert capfd.readouterr() == ("", "")
    assert repr(again) == f"<6 finished stages in {store}>"


def test_the_command_line_leaves_the_same_bits(results, store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = "--plr 1e-2,1e-1 --flr 1e-2 --k 2 --epochs 2 --finetune-epochs 1 --n-train 150"
    flags += " --n-test 60 --width 2 --processes 1 --pack 4 --device cpu --store here"
    assert run(["sweep", "digits", *flags.split()]) == 0
    mine = {
        place for place in contents(store) if place.split("/")[0] in set(results.stages["stage"])
    }
    theirs = contents(Path("here"))
    assert set(theirs) == mine
    assert theirs == {place: contents(store)[place] for place in mine}


def test_progress_is_printed_if_asked_for(study, tmp_path, capsys):
    ft.sweep(study, store=tmp_path / "store", quiet=False, **HOW)
    said = capsys.readouterr().out
    assert "[6/6]" in said and "packs of up to" in said


def test_what_a_process_computes_with_stays_as_it_was(study, tmp_path):
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    ft.sweep(study, store=tmp_path / "store", device="cpu")
    assert torch.get_num_threads() == before[0] and torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before[1]


def test_the_recorded_command_repeats_the_call(results, store, tmp_path):
    done = json.loads((store / results.stages["stage"][0] / "done.json").read_text())
    command = done["provenance"]["command"].replace(str(store), "elsewhere")
    # `python` is this one, whether or not its environment is active.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, env=environment)
    again = ft.Results(tmp_path / "elsewhere")
    assert set(again.stages["stage"]) == set(results.stages["stage"])


def test_figures_are_of_matplotlib_and_shown_without_pyplot(results):
    names = [line.split("`")[1] for line in _rows_of_figures()]
    drawings = list(
        dict.fromkeys([*DRAWINGS, SPARSITY, SETS, TRANSFER, *CHAIN_DRAWINGS, DIMENSIONS])
    )
    assert [drawing.name for drawing in drawings] == names
    figure = results.figure("accuracy")
    assert isinstance(figure, matplotlib.figure.Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")


def _rows_of_figures() -> list[str]:
    page = Path(__file__).parents[2] / "docs" / "figures.md"
    return [line for line in page.read_text().splitlines() if line.startswith("| `")]


def test_analyses_are_tables_and_figures(results, store):
    with pytest.raises(ft.UsageError, match="figure norms: .*fasttrain analyse"):
        results.figure("norms")
    found = ft.analyse(store, only=["norms"], device="cpu")
    norms = found.measurements["norms"]
    assert set(norms["stage"]) <= set(found.stages["stage"]) and len(norms)
    assert found.measurements["pairs"].empty
    assert (
        ft.Results(store, only=[norms["stage"].iloc[0]]).measurements["norms"]["stage"].nunique()
        == 1
    )
    assert found.figure("heterogeneity")


def test_the_report_is_built_when_asked_for(results):
    page = results.report()
    assert page == results.store / "report" / "report.html" and page.stat().st_size


def test_several_set_ups_have_figures_of_their_own(tmp_path):
    for width in (2, 3):
        study = ft.study("digits", **{**GRID, "plr": 1e-2}, **{**SMALL, "width": width})
        ft.sweep(study, store=tmp_path / "both", **HOW)
    both = ft.Results(tmp_path / "both")
    first, second = sorted(both.stages["setup"].unique())
    with pytest.raises(ft.UsageError, match="several set-ups.*" + first):
        both.figure("accuracy")
    with pytest.raises(ft.UsageError, match="did you mean"):
        both.figure("accuracy", first[:-1])
    assert both.figure("accuracy", second)


def test_boundaries_are_tables(tmp_path):
    study = ft.study("digits", **{**GRID, "epochs": 10}, **SMALL)
    found = ft.locate(
        study, plr=(1e-2, 1), ratio=1.5, boundaries=["2|3"], share=1, store=tmp_path / "l", **HOW
    )
    assert list(found.boundaries["boundary"]) == ["2|3"]
    assert len(found.probes) and set(found.probes["purpose"]) <= {"coarse", "2|3"}
    if found.plr is not None:
        assert ft.study("digits", plr=found.plr).config.grid.plr


MISTAKES = [
    (lambda s: ft.study("digts"), "did you mean 'digits'"),
    (lambda s: ft.study("digits", pllr=1), "study digits: pllr: no such key.*did you mean 'plr'"),
    (lambda s: ft.study("digits", epochs=0), "training.epochs = 0"),
    (lambda s: ft.study("digits", plr=[-1]), "grid.plr = "),
    (lambda s: ft.study("digits", optimizer={"kind": "sdg"}), "did you mean 'sgd'"),
    (lambda s: ft.study("digits", network={"widht": 3}), "did you mean 'width'"),
    (lambda s: ft.study("digits", network=3), "network"),
    (lambda s: ft.study("digits", momentum=0.9), "optimizer.momentum: no such key"),
    (lambda s: ft.study(ft.Setting(optimizer="sdg")), "did you mean 'sgd'"),
    (lambda s: ft.sweep("digts"), "did you mean 'digits'"),
    (lambda s: ft.sweep("digits", devise="cpu"), "sweep: no option 'devise'.*'device'"),
    (lambda s: ft.sweep("digits", device="tpu"), "sweep: device = 'tpu'"),
    (lambda s: ft.sweep("digits", pack=0), "sweep: pack = 0"),
    (lambda s: ft.sweep(ft.study("digits", dataset="none.npz")), "none.npz cannot be read"),
    (lambda s: ft.locate("digits", ratio=1), "ratio 1"),
    (lambda s: ft.locate("digits", boundaries=["2|4"]), "boundaries '2.4'"),
    (lambda s: ft.locate("digits", plr=(1, 1e-3)), "needs 0 < FIRST < LAST"),
    (lambda s: ft.analyse(s, only=["norm"]), "did you mean 'norms'"),
    (lambda s: ft.analyse(s, k=0), "analyse: k = 0"),
    (lambda s: ft.analyse(s, low=1, high=0.1), "low = 1: must be below high = 0.1"),
    (lambda s: ft.analyse(s, low=0.7), "no stage was fine-tuned at it"),
    (lambda s: ft.Results(s).figure("acuracy"), "did you mean 'accuracy'"),
    (lambda s: ft.load_model(s, "0123"), "no finished stage '0123'"),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[m for _, m in MISTAKES])
def test_a_mistake_is_one_line(mistake, message, results, store, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ft.UsageError, match=message) as raised:
        mistake(store)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")


def test_what_is_around_the_program_is_another_error(study, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for fault in (
        lambda: ft.sweep(study, store=tmp_path / "full"),
        lambda: ft.Results(tmp_path / "none"),
        lambda: ft.analyse(tmp_path / "none"),
        lambda: ft.load_model(tmp_path / "none", "0" * 16),
    ):
        with pytest.raises(ft.EnvironmentProblem, match="store"):
            fault()


def test_the_options_are_those_of_the_commands():
    assert list(Options.__annotations__) == [f.name for f in dataclasses.fields(RunOptions)]


LIGHT = """
import sys
import fasttrain as ft
heavy = {"torch", "pandas", "matplotlib", "tyro", "numpy", "rich", "pydantic"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert set(ft.__all__) <= set(dir(ft))
ft.study("digits", epochs=3)
assert not heavy - {"pydantic"} & set(sys.modules), heavy & set(sys.modules)
assert callable(ft.sweep) and ft.UsageError.__name__ == "UsageError"
import fasttrain.api.session, fasttrain.cli.main
assert all(callable(getattr(ft, name)) or name == "__version__" for name in ft.__all__)
try:
    ft.swep
except AttributeError as error:
    assert "swep" in str(error)
else:
    raise AssertionError
"""


def test_the_package_is_imported_in_no_time():
    subprocess.run([sys.executable, "-W", "ignore", "-c", LIGHT], check=True)
