"""Values out of all bounds: one line that names them, before anything is expanded, or accepted."""

import os
import subprocess
import sys

import pytest

from fasttrain.errors import UsageError
from fasttrain.plan.config import check, load_config
from fasttrain.settings.limits import LIMITS, MAX_TOML_BYTES

HUGE = "9" * 400
BEYOND = "9" * 5000
"""more digits than Python reads"""
HEXADECIMAL = "0x" + "f" * 5000
"""read, but more digits than Python writes"""

REFUSED = {
    # Counts.
    "seeds, a million": ("[grid]\nseeds = 1000000", "FASTTRAIN_MAX_SEEDS=... in the environment"),
    "seeds, 400 digits": (f"[grid]\nseeds = {HUGE}", "grid.seeds = <integer of 1329 bits>: must"),
    "seeds, 5,000 digits": (f"[grid]\nseeds = {BEYOND}", "not valid TOML"),
    "seeds, hexadecimal": (f"[grid]\nseeds = {HEXADECIMAL}", "<integer of 20000 bits>"),
    "seeds, negative": (f"[grid]\nseeds = -{HUGE}", "greater than 0"),
    "seeds, a boolean": ("[grid]\nseeds = true", "grid.seeds = True"),
    "seeds, a float": ("[grid]\nseeds = 2.0", "grid.seeds = 2.0"),
    "seeds, text": ("[grid]\nseeds = '2'", "grid.seeds = '2'"),
    "seeds, a date": ("[grid]\nseeds = 1979-05-27", "grid.seeds = datetime.date(1979, 5, 27)"),
    "seeds, an array": ("[grid]\nseeds = [1]", "grid.seeds = [1]"),
    "seeds, a table": ("[grid.seeds]\na = 1", "grid.seeds = {'a': 1}"),
    "k, a million": ("[grid]\nk = [1000000]", "FASTTRAIN_MAX_K=... in the environment"),
    "k, too many": (f"[grid]\nk = {list(range(1, 2000))}", "must be at most 1000"),
    "k, 400 digits": (f"[grid]\nk = [{HUGE}]", "too large for a whole number"),
    "k, hexadecimal": (f"[grid]\nk = [{HEXADECIMAL}]", "<integer of 20000 bits>"),
    "k, infinite": ("[grid]\nk = [inf]", "inf: a number of checkpoints"),
    "k, not a number": ("[grid]\nk = [nan]", "nan: a number of checkpoints"),
    "k, a boolean": ("[grid]\nk = [true]", "True is not a whole number"),
    "k, nested": ("[grid]\nk = [[[[2]]]]", "[[[2]]] is not a whole number"),
    "k, negative zero": ("[grid]\nk = [-0.0]", "-0: a number of checkpoints"),
    "width, 1e31": (f"[network]\nwidth = {10**31}", "network.width = 1000000000000000000000"),
    "width, 1e31 as a float": ("[network]\nwidth = 1e31", "must be a valid integer"),
    "width, a million": ("[network]\nwidth = 1000000", "FASTTRAIN_MAX_WIDTH=..."),
    "width, zero": ("[network]\nwidth = 0", "greater than 0"),
    "epochs, a billion": ("[training]\nepochs = 1000000000", "FASTTRAIN_MAX_EPOCHS=..."),
    "epochs, 400 digits": (f"[training]\nepochs = {HUGE}", "training.epochs"),
    "fine-tuning, a billion": ("[training]\nfinetune_epochs = 1000000000", "at most 100000"),
    "batch_size, 1e31": (f"[training]\nbatch_size = {10**31}", "training.batch_size"),
    "batch_size, zero": ("[training]\nbatch_size = -0", "greater than 0"),
    "evaluate_every, huge": (f"[training]\nevaluate_every = {HEXADECIMAL}", "evaluate_every"),
    "crop_padding, huge": (f"[data]\ncrop_padding = {HUGE}", "data.crop_padding"),
    "crop_padding, negative": ("[data]\ncrop_padding = -1", "greater than or equal to 0"),
    "n_train, huge": (f"[data]\nn_train = {HEXADECIMAL}", "data.n_train"),
    "n_test, huge": (f"[data]\nn_test = {HUGE}", "data.n_test"),
    "flip, a number": ("[data]\nflip = 1", "data.flip = 1"),
    # Learning rates.
    "range of 1e9": ("[grid]\nplr = '1e-5:1e-1:1000000000'", "FASTTRAIN_MAX_RATES=..."),
    "range of 400 digits": (f"[grid]\nplr = '1e-5:1e-1:{HUGE}'", "must be at most 10000"),
    "range of 5,000 digits": (f"[grid]\nplr = '1e-5:1e-1:{BEYOND}'", "must be at most 10000"),
    "range over all floats": ("[grid]\nplr = '5e-324:1.7e308:5'", "lies between 1e-200 and 1e+200"),
    "range from nan": ("[grid]\nplr = 'nan:1:5'", "0 < FIRST < LAST"),
    "range to infinity": ("[grid]\nplr = '1:1e400:5'", "0 < FIRST < LAST"),
    "range, superscript": ("[grid]\nplr = '1:2:\u00b2'", "is not a number"),
    "range of text": (f"[grid]\nplr = '{'a' * 100000}:1:2'", "is not a number"),
    "rates, too many": (
        f"[grid]\nplr = {[i + 1 for i in range(20000)]}",
        "grid.plr = [1, 2, 3, 4, 5, 6, ...]: must be at most 10000",
    ),
    "rate of 400 digits": (f"[grid]\nplr = [{HUGE}]", "too large for a learning rate"),
    "rate of 400 digits in text": (f"[grid]\nplr = '{HUGE}'", "inf: a learning rate"),
    "rate 1e400": ("[grid]\nplr = [1e400]", "inf: a learning rate is a finite number"),
    "rate 1e300": ("[grid]\nflr = [1e300]", "lies between 1e-200 and 1e+200"),
    "rate 5e-324": ("[grid]\nflr = [5e-324]", "lies between 1e-200 and 1e+200"),
    "rate nan": ("[grid]\nflr = [nan]", "nan: a learning rate is a finite number"),
    "rate -0.0": ("[grid]\nflr = [-0.0]", "-0: a learning rate is a finite number above 0"),
    "rate, a boolean": ("[grid]\nflr = [false]", "False is not a learning rate"),
    "rate, a time": ("[grid]\nflr = [07:32:00]", "is not a learning rate"),
    "rate, a table": ("[grid]\nflr = [{a = 1}]", "{'a': 1} is not a learning rate"),
    "rate, many tables": (f"[grid.flr{'.a' * 3000}]\nb = 1", "is not a learning rate"),
    "radius 1e300": ("[network]\nradius = 1e300", "less than or equal to 1000000"),
    "radius 1e-300": ("[network]\nradius = 1e-300", "network.radius = 1e-300"),
    "radius, infinite": ("[network]\nradius = inf", "network.radius = inf"),
    "radius, not a number": ("[network]\nradius = nan", "network.radius = nan"),
    "radius of 400 digits": (f"[network]\nradius = {HUGE}", "network.radius"),
    "radius, -0.0": ("[network]\nradius = -0.0", "network.radius = -0.0"),
    "a grid of too many stages": (
        "[grid]\nplr = '1e-5:1:1000'\nflr = '1e-5:1:1000'\nseeds = 9999",
        "9999 seeds x 1000 PLR x 1003 stages are 10028997000 stages: must be at most 100000",
    ),
    # Words.
    "model, a long word": (f"[network]\nmodel = '{'x' * 500000}'", "network.model = 'xxx"),
    "model, an array": ("[network]\nmodel = ['convnet']", "network.model = ['convnet']"),
    "loader, with line breaks": ("[data]\nloader = 'a\\nb'", "data.loader"),
    "precision, a number": ("[training]\nprecision = 16", "training.precision = 16"),
    "data set, a number": ("[data]\ndataset = 10", "data.dataset = 10"),
    "data set, empty": ("[data]\ndataset = ''", "unknown data set ''"),
    "data set, long": (f"[data]\ndataset = '{'x' * 500000}'", "unknown data set 'xxx"),
    "data set, a long path": (f"[data]\ndataset = '{'x' * 300}.npz'", "File name too long"),
    "data set of no user": ("[data]\ndataset = '~nosuchuser/x.npz'", "of its user is not known"),
    "data set, zero byte": ('[data]\ndataset = "a\\u0000b.npz"', "is no path: it holds a zero"),
    "data set, line break": ('[data]\ndataset = "a\\nb.npz"', "a\\nb.npz cannot be read"),
    "data set, a directory": ("[data]\ndataset = 'folder.npz'", "folder.npz is no file"),
    "data set, a pipe": ("[data]\ndataset = 'pipe.npz'", "pipe.npz is no file"),
    "data set, a device": ("[data]\ndataset = 'zero.npz'", "zero.npz is no file"),
    "data set, a loop": ("[data]\ndataset = 'loop.npz'", "loop.npz cannot be read: Too many"),
    # Keys and tables.
    "key of 100,000 letters": (f"[grid]\n{'x' * 100000} = 1", "no such key"),
    "key with a line break": ('[grid]\n"a\\nb" = 1', "grid.'a\\nb': no such key"),
    "key of no letter": ('[grid]\n"" = 1', "grid.'': no such key"),
    "key with a zero byte": ('"a\\u0000b" = 1', "'a\\x00b': no such key"),
    "key with a colour": ('"\\u001b[31m" = 1', "'\\x1b[31m': no such key"),
    "100,000 keys": ("".join(f"x{i} = 1\n" for i in range(50000)), "x0: no such key"),
    "section, a number": ("grid = 1", "grid = 1"),
    "section, an array": ("[[grid]]\nplr = 1", "grid = [{'plr': 1}]"),
    "3,000 tables": (f"[data{'.a' * 3000}]\nb = 1", "data.a: no such key"),
    "3,000 arrays": (f"[grid]\nplr = {'[' * 3000}1{']' * 3000}", "nested too deep"),
    "3,000 inline tables": (f"[grid]\nplr = {'{a=' * 3000}1{'}' * 3000}", "nested too deep"),
    "a key twice": ("[grid]\nseeds = 1\nseeds = 2", "not valid TOML"),
    "an open string": ("[data]\ndataset = 'digits", "not valid TOML"),
    "a long line": (f"[data]\ndataset {'x' * 100000}", "not valid TOML"),
    # Bytes.
    "not UTF-8": (b"[data]\ndataset = '\xff.npz'", "not UTF-8 text (byte 18)"),
    "UTF-16": ("[grid]\nseeds = 1".encode("utf-16"), "not UTF-8 text (byte 0)"),
    "a zero byte": (b"[grid]\nseeds = 1\x00", "not valid TOML"),
    "zero bytes": (bytes(1000), "not valid TOML"),
    "random bytes": (bytes(range(256)) * 8, "not UTF-8 text"),
    "a large file": (b"#" * (MAX_TOML_BYTES + 1), "has more than 1048576 bytes"),
}

ACCEPTED = {
    "nothing": "",
    "byte order mark": "\ufeff[grid]\nseeds = 1",
    "Windows' line ends": "[grid]\r\nseeds = 1\r\n",
    "hexadecimal": "[grid]\nseeds = 0x10",
    "underscores": "[grid]\nseeds = 1_000",
    "whole rates": "[grid]\nplr = [1, 2]",
    "a rate by itself": "[grid]\nplr = 1",
    "the largest file": "#" * MAX_TOML_BYTES,
    "the largest values": "[network]\nwidth = 1024\nradius = 1e6\n[grid]\nk = [1000]",
}


@pytest.fixture
def odd_files(tmp_path):
    """Paths that cannot be read as files, in the directory where commands run."""
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()


@pytest.mark.usefixtures("odd_files")
@pytest.mark.parametrize("command", ["sweep", "locate"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_file_is_one_line_and_exit_code_2(fasttrain, tmp_path, command, case):
    content, message = REFUSED[case]
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / "grid.toml").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    outcome = fasttrain(command, "grid.toml", "--dry-run")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("fasttrain: ") and outcome.err.count("\n") == 1
    assert outcome.err.rstrip("\n").isprintable()
    assert len(outcome.err) < 1000
    assert message in outcome.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("case", ACCEPTED)
def test_an_odd_file_that_says_what_is_allowed_is_accepted(tmp_path, case):
    path = tmp_path / "grid.toml"
    path.write_bytes(ACCEPTED[case].encode())
    load_config(str(path))


@pytest.mark.usefixtures("odd_files")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "pipe.toml"], "pipe.toml: is no file"),
        (["sweep", "folder.toml"], "folder.toml: is no file"),
        (["sweep", "a\nb.toml"], "a\\nb.toml: cannot be read"),
        (["sweep", "x" * 5000 + ".toml"], "File name too long"),
        (["sweep", "x" * 100000], "is neither a preset nor a .toml file"),
        (["sweep", "digits", "--plr", "1e-5:1e-1:1000000000"], "must be at most 10000"),
        (["sweep", "digits", "--plr", HUGE], "inf: a learning rate"),
        (["sweep", "digits", "--k", "1000000"], "--k: must be at most 1000"),
        (["sweep", "digits", "--seeds", HUGE], "grid.seeds = <integer of 1329 bits>"),
        (["sweep", "digits", "--seeds", BEYOND], "--seeds"),
        (["sweep", "digits", "--processes", "1000000"], "FASTTRAIN_MAX_PROCESSES"),
        (["sweep", "digits", "--checkpoint-s", "1e300"], "checkpoint_s = 1e+300"),
        (["sweep", "digits", "--checkpoint-s", "nan"], "checkpoint_s = nan"),
        (["sweep", "digits", "--device", "cuda:" + "9" * 50], "device = 'cuda:999"),
        (["sweep", "digits", "--dataset", "pipe.npz"], "pipe.npz is no file"),
        (["train", "digits", "--plr", "1e300"], "--plr: 1e+300: a learning rate lies between"),
        (["train", "digits", "--plr", "1", "--k", "1000000"], "--k: must be at most 1000"),
        (["locate", "digits", "--plr", "1e-300:1e300"], "a learning rate lies between"),
        (["locate", "digits", "--ratio", "nan"], "--ratio nan: must be above 1"),
        (["locate", "digits", "--seeds", "1000000"], "grid.seeds = 1000000: must be at most"),
        (["analyse", "here", "--low", "nan"], "low = nan: nan: a learning rate"),
        (["analyse", "here", "--low", "2", "--high", "1"], "low = 2: must be below high = 1"),
        (["analyse", "here", "--device", "cuda:x"], "device = 'cuda:x': allowed are auto"),
        (["data", "inspect", "~nosuchuser/x.npz"], "of its user is not known"),
        (["data", "inspect", "~nosuchuser/x.beton"], "of its user is not known"),
        (["data", "verify", "pipe.npz"], "pipe.npz is no file"),
        (["data", "write", "digits", "~nosuchuser/x.beton"], "of its user is not known"),
        (["data", "inspect", "cifar10", "--data-root", "~nosuchuser"], "of its user is not known"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_hostile_argument_is_one_line_and_exit_code_2(fasttrain, arguments, message):
    outcome = fasttrain(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("fasttrain: ") and outcome.err.count("\n") == 1
    assert message in outcome.err


LIFTED = {
    "SEEDS": ({"grid": {"plr": 1, "flr": 1, "seeds": 10_001}}, "10001"),
    "K": ({"grid": {"k": [1_001]}}, "1001"),
    "RATES": ({"grid": {"plr": "1:2:10001"}}, "10001"),
    "EPOCHS": ({"training": {"epochs": 100_001}}, "100001"),
    "WIDTH": ({"network": {"width": 1_025}}, "1025"),
    "STAGES": ({"grid": {"plr": "1:2:400", "flr": "1:2:251", "k": []}}, "100800"),
}


@pytest.mark.parametrize("name", LIFTED)
def test_a_limit_can_be_lifted_as_its_message_says(monkeypatch, name):
    table, enough = LIFTED[name]
    with pytest.raises(UsageError) as raised:
        check(table, "grid")
    limit = f"must be at most {LIMITS[name]}; FASTTRAIN_MAX_{name}=... in the environment"
    assert limit in str(raised.value)
    monkeypatch.setenv(f"FASTTRAIN_MAX_{name}", enough)
    check(table, "grid")
    monkeypatch.setenv(f"FASTTRAIN_MAX_{name}", "many")
    with pytest.raises(UsageError, match=f"FASTTRAIN_MAX_{name}='many' must be a whole number"):
        check(table, "grid")


def test_a_lifted_limit_holds_in_the_command_line(tmp_path):
    (tmp_path / "grid.toml").write_text("[grid]\nseeds = 20000\nplr = 1\nflr = 1\nk = []")
    code = "import sys, fasttrain.plan.config as c; print(c.load_config('grid.toml').grid.seeds)"
    environment = {**os.environ, "FASTTRAIN_MAX_SEEDS": "20000"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "20000\n"
