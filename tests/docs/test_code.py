"""The code of the pages runs as it stands, and every command on them is one."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fasttrain
from fasttrain.cli import commands as printed
from fasttrain.cli import main
from fasttrain.cli.completion import _COMMANDS
from fasttrain.cli.usage import parse

from .pages import DOCS, PAGES, ROOT, blocks, commands, name_of, named_files, scripts

HOW_TO = DOCS / "how-to"
QUICK = ("--epochs", "2", "--finetune-epochs", "1", "--plr", "3e-3", "--k", "2", "--seeds", "1")
ALONE = ("--store", "store", "--processes", "1", "--pack", "2", "--compile", "off")
OWN = {
    "data.md": "train_images: (N, H, W) as gray",
    "network.md": "1 of 5 trained tensors lie on the sphere: conv.weight",
    "optimizer.md": "report: store/report/report.html",
}


@pytest.mark.parametrize("page", ["python.md", "model.md", "optimizer.md"])
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    code = scripts(HOW_TO / page)
    assert code
    for block in code:
        exec(compile(block, page, "exec"), names)
    assert capsys.readouterr().out == ""


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study, step = blocks(ROOT / "README.md", "python")
    exec(compile(study, "README", "exec"), {})
    assert (tmp_path / "accuracy.png").stat().st_size
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten())
    batch = torch.randn(8, 3, 6, 6)
    before = model[0].weight.detach().clone()
    loss = model(batch).square().sum()
    exec(compile(step, "README", "exec"), {"model": model, "batch": batch, "loss": loss})
    assert not torch.equal(before, model[0].weight)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("page", OWN)
def test_own_parts_of_a_page_train(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    shown = named_files(HOW_TO / page)
    for name, text in shown.items():
        Path(name).write_text(text)
    [command] = [line for line in commands(HOW_TO / page) if line.endswith(".toml")]
    try:
        code = main.run([*shlex.split(command), *QUICK, *ALONE])
    finally:
        # The next import reads a page's module again, as in a new process.
        for name in shown:
            sys.modules.pop(name.removesuffix(".py"), None)
    said = capsys.readouterr()
    assert code == 0, said.err
    assert OWN[page] in said.out
    assert set(fasttrain.load("store")["state"]) <= {"done", "at-chance"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with every file that pages show, and the examples of own parts."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(DOCS / "examples" / "own", folder, dirs_exist_ok=True)
    # Images of the user's.
    (folder / "ROOT").mkdir()
    for page in PAGES:
        for name, text in named_files(page).items():
            (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_every_command_of_a_page_is_one(page, files, monkeypatch):
    """Their flags and values are read and checked; nothing runs."""
    monkeypatch.chdir(files)
    monkeypatch.setattr(main, "_run", lambda *_, **__: 0)
    monkeypatch.setattr(main, "check_training", lambda *_: None)
    monkeypatch.setattr(main, "start_server", lambda *_: None)
    monkeypatch.setattr(printed, "locate", lambda *_, **__: 0)
    for line in commands(page):
        verb, *rest = shlex.split(line)
        if verb in ("sweep", "train", "locate"):
            assert main._dispatch([verb, *rest]) == 0
        else:
            kind = _COMMANDS[verb]
            kind, rest = (kind[rest[0]], rest[1:]) if isinstance(kind, dict) else (kind, rest)
            parse(kind, verb, rest)
