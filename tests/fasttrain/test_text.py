"""Paths and commands of no encoding: shown as far as they can be, and in nobody's way."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fasttrain.machine.text import ESCAPED, readable
from fasttrain.report.page.cell_command import NoCommand, train_command
from fasttrain_data import load

from .pages import CONFIG


@pytest.mark.parametrize(
    ("text", "shown", "encoded"),
    [
        ("plain", "plain", b"plain"),
        ("na\u00efve \u00b1", "na\u00efve \u00b1", "na\u00efve \u00b1".encode()),
        # Bytes of UTF-8 under a C locale, a byte of none, and what no byte was escaped to.
        ("na\udcc3\udcafve", "na\u00efve", "na\u00efve".encode()),
        ("a\udcffb", "a\ufffdb", b"a\xffb"),
        ("a\ud800b", "a?b", b"a?b"),
    ],
)
def test_text_is_shown_or_written_as_the_bytes_it_was(text, shown, encoded):
    assert readable(text) == shown
    assert text.encode("utf-8", ESCAPED) == encoded


def test_a_console_of_ascii_shows_a_question_mark_or_the_bytes():
    assert "\u00b1 \udcff".encode("ascii", ESCAPED) == b"? \xff"


@pytest.mark.parametrize("line", ["fasttrain sweep 'open", 'fasttrain sweep "', "fasttrain \\"])
def test_a_recorded_command_that_is_none_is_told_and_others_serve(line):
    with pytest.raises(NoCommand, match="cannot be read .No "):
        train_command(CONFIG, [line])
    assert train_command(CONFIG, [line, "fasttrain sweep digits"]).startswith("fasttrain train")


def test_a_recorded_flag_without_its_value_is_no_error():
    assert train_command(CONFIG, ["fasttrain sweep digits --store"]).endswith("--store")


@pytest.mark.parametrize(
    "locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_store_and_data_whose_paths_are_not_utf8(tmp_path, locale):
    """From the sweep to the last table: by another process, since it is about the locale's."""
    try:
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xc3\xafve-\xff"))
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"the file system refuses such a name: {error}")
    store, data = folder / "store", folder / "digits.npz"
    digits = load("digits").subset(150, 50)
    np.savez(
        os.fspath(data),
        train_images=digits.train_images,
        train_labels=digits.train_labels,
        test_images=digits.test_images,
        test_labels=digits.test_labels,
    )
    data = data.rename(folder / os.fsdecode(b"digits-\xfe.npz"))

    def run(*arguments: str | Path) -> bytes:
        words = [os.fsencode(argument) for argument in arguments]
        done = subprocess.run(
            [sys.executable, "-m", "fasttrain", *words],
            capture_output=True,
            env={**os.environ, **locale},
        )
        assert done.returncode == 0 and not done.stderr, done
        return done.stdout

    grid = ("--plr", "0.1", "--flr", "0.1", "--k", "none", "--processes", "1", "--pack", "1")
    lengths = ("--epochs", "1", "--finetune-epochs", "1")
    out = run("sweep", "digits", "--dataset", data, *grid, *lengths, "--store", store)
    assert b"report: " + os.fsencode(store / "report" / "report.html") in out
    assert b": sound" in run("doctor", store)
    page = (store / "report" / "report.html").read_text(encoding="utf-8")
    assert "na\u00efve-\ufffd" in page and "digits-\ufffd" in page
    with (store / "report" / "results.csv").open(encoding="utf-8") as table:
        assert len(pd.read_csv(table)) == 2
