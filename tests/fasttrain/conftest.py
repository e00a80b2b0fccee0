"""A grid small enough to run in seconds, command lines in this process, and a browser for pages."""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from fasttrain.cli.main import run
from fasttrain.execution import measured

from .own_parts import SMALL, TOML
from .pages import use_few_pictures

TINY = """
[data]
dataset = "digits"
n_train = 150
n_test = 50
[network]
width = 2
[training]
epochs = 3
finetune_epochs = 2
batch_size = 64
[grid]
plr = [1e-2, 1e-1]
flr = [1e-2]
k = [2, 3]
"""


# What is measured here is kept here: in a cache directory that every test's processes share.
_CACHE = tempfile.TemporaryDirectory(prefix="fasttrain-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

# What is printed here is that of a user who has said nothing of a terminal.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_name, None)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def few_threads():
    """The networks here are too small to share between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Programs started here hear Ctrl-C and a hang-up, if these tests are a job that ignores them.

    What is ignored stays so in a program that is started; what is handled does not.
    """
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def hasty_measurements():
    """Whatever pack is chosen, the results are the same: a step or two tell enough here."""
    before, measured.WINDOW_S = measured.WINDOW_S, 0.0
    yield
    measured.WINDOW_S = before


@pytest.fixture(scope="session", autouse=True)
def quick_pictures():
    """Most pages are made by the way here: without their figures in a tenth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        use_few_pictures(patch)
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The path of a TOML file with a grid of 2 pre-trainings, 2 fine-tunings and 4 averages."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a user's module and a grid of its parts; the program runs there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own.py").write_text(SMALL)
    (tmp_path / "own.toml").write_text(TOML)
    yield tmp_path
    forget_own_parts()


def forget_own_parts() -> None:
    """The next import reads the user's module again, as in a new process."""
    for name in ("own", "own_too"):
        sys.modules.pop(name, None)


@pytest.fixture
def fasttrain(capsys, monkeypatch, tmp_path):
    """Run a command line from an empty directory: `fasttrain("sweep", ...)` -> Outcome."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Outcome:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


class Killed(BaseException):
    """Ends a sweep without any of its handlers, as SIGKILL does."""


@pytest.fixture
def killed_at(fasttrain, monkeypatch):
    """Run a command in this process, and kill it as it reports an epoch of this number."""

    def run_until(epoch: int, *arguments: object) -> None:
        def kill(_, __, reached, ___):
            if reached == epoch:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr("fasttrain.execution.progress.ProgressView.epoch", kill)
            with pytest.raises(Killed):
                fasttrain(*arguments)

    return run_until


def moment() -> None:
    """Leave the machine to others for a moment: for what has to be asked again and again."""
    select.select([], [], [], 0.002)


def ended(process: subprocess.Popen) -> bool:
    """Whether the process has ended, after a moment."""
    moment()
    return process.poll() is not None


def contents(store: Path) -> dict[str, bytes]:
    """Every result file of a store, by stage and name: what must be the same bit for bit."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.glob("*/*"))
        if path.name in ("state.safetensors", "metrics.parquet", "stage.json")
    }


@pytest.fixture(scope="module")
def chromium():
    """Debian's Chromium without a window, one process for the tests of a module.

    Without it they are skipped; FASTTRAIN_REQUIRE_OPTIONAL=1 makes that a failure.
    """
    path = shutil.which("chromium")
    lacking = pytest.fail if os.environ.get("FASTTRAIN_REQUIRE_OPTIONAL") == "1" else pytest.skip
    if path is None:
        lacking("no chromium on the PATH")
    try:
        from playwright import sync_api
    except ImportError:
        lacking("no playwright")
    with sync_api.sync_playwright() as playwright:
        # Inside a container Chromium cannot make its sandbox; it only sees pages made here.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """`visit(address, width=..., **context)` -> page; fails on an error, a dialog or a request."""
    contexts, faults = [], []

    def call(address: str, width: int = 1100, **options):
        context = chromium.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(600_000)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: _note(request.url, address, faults))
        page.goto(address)
        return page

    yield call
    for context in contexts:
        context.close()
    assert not faults


def _note(url: str, address: str, faults: list[str]) -> None:
    if url.split("#")[0] != address.split("#")[0] and not url.startswith("data:"):
        faults.append(f"request for {url}")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A page of two set-ups, for tests that only read it."""
    from .pages import two_setups

    return two_setups(tmp_path_factory.mktemp("page"))


@pytest.fixture
def in_this_process(monkeypatch):
    """Parts of the GPU kit in this process, which has torch; which of them were run."""
    # They import what most tests do not.
    from bench.gpu import run, suite

    ran = []

    def same(command, environment, log, limit_s):
        ran.append(command[command.index("--one") + 1])
        return run.main(command[3:])

    monkeypatch.setattr(run, "ended", same)
    monkeypatch.setattr(suite, "files", lambda: [suite.ROOT / "tests/data/test_resident.py"])
    return ran
