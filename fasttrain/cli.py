"""The command line: `fasttrain sweep | train | report | data | bench`.

Exit codes: 0 done, 1 something around the program is wrong or a stage failed, 2 wrong usage, 130
interrupted. Imports that take seconds happen inside the commands, so that help and usage errors are
immediate.
"""

import contextlib
import dataclasses
import io
import itertools
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from .config import (
    Config,
    DataConfig,
    GridConfig,
    NetworkConfig,
    RunOptions,
    TrainingConfig,
    check,
    check_options,
    load_config,
    presets,
)
from .errors import EnvironmentProblem, UsageError, nearest
from .values import EpochCounts, learning_rates

T = TypeVar("T")

RULE = re.compile("[\u2570\u256f\u2500-]{4,}$")
"""A line across the box that tyro puts its errors in, or the box's lower edge."""

OVERVIEW = """\
usage: fasttrain COMMAND ...

  sweep PRESET|FILE.toml   run a grid of pre-training x fine-tuning learning rates
  train PRESET|FILE.toml   run one cell of it
  report STORE             rebuild tables, figures and report.html of a store
  data inspect DATASET     fetch a data set, or open a .beton file, and say what it holds
  data write DATASET FILE  write it as an FFCV file; data verify FILE checks every byte of one
  bench kernels|data       time the optimiser's step, or the loaders, against others
  bench grid               train a grid, and train it by the published loop, in turn

presets: {presets}
fasttrain COMMAND --help tells more.
"""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Run a PLR x FLR grid: pre-train, fine-tune, average, report. Run it again to resume it."""

    preset: Positional[str]
    """a preset's name or the path of a .toml file"""
    config: OmitArgPrefixes[Config]
    options: OmitArgPrefixes[RunOptions]
    dry_run: FlagCreatePairsOff[bool] = False
    """print the plan and what it would cost, and run nothing"""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Run one cell: pre-train at one learning rate, and fine-tune or average if asked."""

    preset: Positional[str]
    """a preset's name or the path of a .toml file"""
    data: OmitArgPrefixes[DataConfig]
    network: OmitArgPrefixes[NetworkConfig]
    training: OmitArgPrefixes[TrainingConfig]
    options: OmitArgPrefixes[RunOptions]
    plr: float
    """pre-training effective learning rate"""
    flr: float | None = None
    """fine-tuning effective learning rate"""
    k: EpochCounts = ()
    """checkpoints to average"""
    seed: int = 0
    """seed of the initialisation and of the order of the data"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Rebuild results.csv, results.parquet, the figures and report.html from a store."""

    store: Positional[Path]
    """directory of the results"""


@dataclass(frozen=True, kw_only=True)
class DataWrite:
    """Write one split of a data set as an FFCV file, with a manifest beside it."""

    dataset: Positional[str]
    """digits, cifar10, cifar100, fashion-mnist, or the path of an .npz file"""
    out: Positional[Path]
    """the file to write, *.beton"""
    split: Literal["train", "test"] = "train"
    """which images"""
    mode: Literal["raw", "jpg"] = "raw"
    """raw is exact, jpg smaller"""
    data_root: Path | None = None
    """where data sets are kept; FASTTRAIN_DATA or the user's cache directory if not given"""


@dataclass(frozen=True, kw_only=True)
class DataInspect:
    """Fetch a data set if it is not there yet, and say what it, or an FFCV file, holds."""

    source: Positional[str]
    """digits, cifar10, cifar100, fashion-mnist, or the path of an .npz or .beton file"""
    data_root: Path | None = None
    """where data sets are kept; FASTTRAIN_DATA or the user's cache directory if not given"""


@dataclass(frozen=True, kw_only=True)
class DataVerify:
    """Check every byte of an FFCV file against its manifest."""

    file: Positional[Path]
    """the .beton file"""


DATA_ACTIONS = {"write": DataWrite, "inspect": DataInspect, "verify": DataVerify}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time the optimiser's step, or the loaders, against others, on this machine's CPU."""

    what: Positional[Literal["kernels", "data"]] = "kernels"
    """what to time"""
    only: str | None = None
    """one of resnet18-64, resnet18-32, convnet-32, pack; all of them if not given"""
    rounds: int | None = None
    """how often every variant is timed, in turn; 31 steps or 11 epochs if not given"""
    dataset: str | None = None
    """of bench data: a data set's name or path; generated images of CIFAR's size if not given"""
    compile: bool = True
    """time torch.compile too (needs a C++ compiler, and a minute)"""
    static: FlagCreatePairsOff[bool] = False
    """instead compile the GPU kernels for several GPUs, without one, and say what came out"""


@dataclass(frozen=True, kw_only=True)
class BenchGrid:
    """Train a grid and train it by the published loop, in turn, on this machine's CPU."""

    case: Literal["digits", "convnet-8", "convnet-32", "resnet18-16"] = "digits"
    """which network and images"""
    rounds: int = 2
    """seeds to train on both sides"""
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    """our arithmetic; the published loop's is fp32"""
    dataset: str | None = None
    """other images for the CIFAR cases; by default CIFAR-10 if on disk, else generated ones"""
    data_root: Path | None = None
    """where data sets are kept; FASTTRAIN_DATA or the user's cache directory if not given"""
    sizes: FlagCreatePairsOff[bool] = False
    """instead train grids of 4 to 256 cells on digits, ours alone: cost against grid size"""


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a sign shows a question mark; it does not stop a sweep.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line; returns its exit code. A user's mistake is one line on standard error."""
    try:
        return _dispatch(arguments)
    except UsageError as error:
        print(f"fasttrain: {error}", file=sys.stderr)
        return 2
    except EnvironmentProblem as error:
        print(f"fasttrain: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        words = [str(part) for part in (error.filename, error.strerror) if part]
        print(f"fasttrain: {': '.join(words) or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = shlex.join(["fasttrain", *arguments])
        print(f"\nfasttrain: stopped; to resume, run again: {again}", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(OVERVIEW.format(presets=", ".join(presets())), end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from . import __version__

        print(__version__)
        return 0
    commands = {
        "sweep": _sweep,
        "train": _train,
        "report": _report,
        "data": _data,
        "bench": _bench,
    }
    name, *rest = arguments
    if name not in commands:
        raise UsageError(
            f"{name!r} is no command{nearest(name, commands)}; allowed are {', '.join(commands)}"
        )
    return commands[name](rest)


def _sweep(arguments: list[str]) -> int:
    config = _preset_config("sweep", arguments)
    default = Sweep(preset="", config=config, options=RunOptions())
    command = _parse(Sweep, "sweep", arguments, default)
    from .session import sweep

    return sweep(
        check(command.config, "command line"),
        check_options(command.options),
        name=Path(command.preset).stem,
        command=shlex.join(["fasttrain", "sweep", *arguments]),
        dry_run=command.dry_run,
    )


def _train(arguments: list[str]) -> int:
    config = _preset_config("train", arguments)
    default = Train(
        preset="",
        data=config.data,
        network=config.network,
        training=config.training,
        options=RunOptions(),
        plr=tyro.MISSING,
    )
    command = _parse(Train, "train", arguments, default)
    rates = {"--plr": command.plr} | ({} if command.flr is None else {"--flr": command.flr})
    for flag, rate in rates.items():
        try:
            learning_rates(rate)
        except ValueError as error:
            raise UsageError(f"{flag}: {error}") from None
    if not 0 <= command.seed < 2**63:
        raise UsageError(f"--seed {command.seed}: must be at least 0 and below 2^63")
    parts = {"data": command.data, "network": command.network, "training": command.training}
    grid = GridConfig(
        plr=learning_rates(command.plr),
        flr=() if command.flr is None else learning_rates(command.flr),
        k=command.k,
    )
    checked = check(Config(**parts), "command line")
    from .session import sweep

    return sweep(
        dataclasses.replace(checked, grid=grid),
        check_options(command.options),
        name=Path(command.preset).stem,
        command=shlex.join(["fasttrain", "train", *arguments]),
        seeds=[command.seed],
        every_epoch=True,
    )


def _report(arguments: list[str]) -> int:
    from .session import report

    return report(_parse(Report, "report", arguments).store)


def _data(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: fasttrain data {'|'.join(DATA_ACTIONS)} ...; --help after one tells more")
        return 0 if arguments else 2
    action, *rest = arguments
    if action not in DATA_ACTIONS:
        raise UsageError(
            f"data: {action!r} is no action{nearest(action, DATA_ACTIONS)}; allowed are"
            f" {', '.join(DATA_ACTIONS)}, as in: fasttrain data inspect {action}"
        )
    command = _parse(DATA_ACTIONS[action], f"data {action}", rest)
    from . import datasets

    if isinstance(command, DataWrite):
        root = command.data_root
        return datasets.write(command.dataset, command.out, command.split, command.mode, root)
    if isinstance(command, DataVerify):
        return datasets.verify(command.file)
    return datasets.inspect(command.source, command.data_root)


def _bench(arguments: list[str]) -> int:
    if arguments[:1] == ["grid"]:
        return _bench_grid(arguments[1:])
    command = _parse(Bench, "bench", arguments)
    rounds = command.rounds or (11 if command.what == "data" else 31)
    if command.rounds is not None and command.rounds < 2:
        raise UsageError(f"--rounds {command.rounds}: must be at least 2")
    if command.what == "data":
        from .benchmarks_data import run as run_data

        return run_data(command.dataset, rounds)
    if command.static:
        from fasttrain_kernels.static import table

        table()
        return 0
    from .benchmarks import CASES, tables
    from .provenance import about

    if command.only is not None and command.only not in CASES:
        raise UsageError(
            f"--only {command.only!r}{nearest(command.only, CASES)}; allowed are {', '.join(CASES)}"
        )
    print(f"{about()}\n")
    names = list(CASES) if command.only is None else [command.only]
    for text in tables(names, rounds, command.compile):
        print(text, flush=True)
    return 0


def _bench_grid(arguments: list[str]) -> int:
    command = _parse(BenchGrid, "bench grid", arguments)
    if command.rounds < 1:
        raise UsageError(f"--rounds {command.rounds}: must be at least 1")
    from .grid_bench.cases import CASES, with_precision
    from .grid_bench.tables import compare, sizes

    case = with_precision(CASES[command.case], command.precision)
    dataset, root = command.dataset, command.data_root
    texts = sizes(command.rounds) if command.sizes else compare(case, command.rounds, dataset, root)
    for text in texts:
        print(text, flush=True)
    return 0


def _preset_config(name: str, arguments: list[str]) -> Config:
    """The configuration that the first argument names: its values are the defaults of the flags."""
    if arguments and not arguments[0].startswith("-"):
        return load_config(arguments[0])
    if any(argument in ("-h", "--help") for argument in arguments):
        return Config()
    raise UsageError(
        f"{name} needs a preset or a .toml file first: fasttrain {name} PRESET ...; "
        f"presets are {', '.join(presets())}"
    )


def _parse(command: type[T], name: str, arguments: list[str], default: T | None = None) -> T:
    """The command's arguments; a mistake in them is one line."""
    errors = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(command, prog=f"fasttrain {name}", args=arguments, **given)
    except SystemExit as stop:
        if not stop.code:
            raise
    raise UsageError(f"{name}: {_one_line(errors.getvalue())}")


def _one_line(box: str) -> str:
    """What tyro says in its box, as one line: the message and the nearest option.

    Below a title, rules part the box into blocks: the message first, then suggestions and hints.
    """
    lines = [line.strip(" \u2502") for line in box.splitlines()[1:]]
    blocks = [
        [line for line in block if line]
        for is_rule, block in itertools.groupby(lines, key=lambda line: bool(RULE.match(line)))
        if not is_rule
    ]
    blocks = [block for block in blocks if block] or [["cannot be read"]]
    message = " ".join(blocks[0])
    for heading, *options in blocks[1:]:
        if heading.startswith("Perhaps you meant") and options:
            message += f" (did you mean {options[0].split()[0]}?)"
    return message
