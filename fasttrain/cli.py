"""The command line: `fasttrain sweep | train | locate | analyse | report | data | bench`.

Exit codes: 0 done, 1 something around the program is wrong or a stage failed, 2 wrong usage; 130,
143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP. Imports that take seconds happen inside the
commands, so that help and usage errors are immediate.
"""

import contextlib
import dataclasses
import io
import shlex
import sys
from pathlib import Path

import tyro

from . import interrupts
from .arguments import (
    DATA_ACTIONS,
    Analyse,
    Bench,
    BenchGrid,
    DataVerify,
    DataWrite,
    Locate,
    Report,
    Sweep,
    Train,
)
from .config import Config, GridConfig, RunOptions, check, check_options, presets
from .errors import EnvironmentProblem, UsageError, nearest
from .parsing import parse, preset_config
from .values import learning_rates

OVERVIEW = """\
usage: fasttrain COMMAND ...

  sweep PRESET|FILE.toml   run a grid of pre-training x fine-tuning learning rates
  train PRESET|FILE.toml   run one cell of it
  locate PRESET|FILE.toml  find where the regimes meet, and the grid worth running
  analyse STORE            measure geometry, norms, sharpness and features of its stages
  report STORE             rebuild tables, figures and report.html of a store
  data inspect DATASET     fetch a data set, or open a .beton file, and say what it holds
  data write DATASET FILE  write it as an FFCV file; data verify FILE checks every byte of one
  bench kernels|data       time the optimiser's step, or the loaders, against others
  bench grid               train a grid, and train it by the published loop, in turn

presets: {presets}
fasttrain COMMAND --help tells more.
"""


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a sign shows a question mark; it does not stop a sweep.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    interrupts.keep(interrupts.heeded())
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
    except KeyboardInterrupt as stop:
        again = shlex.join(["fasttrain", *arguments])
        with contextlib.suppress(OSError):
            # After SIGHUP there may be no terminal any more.
            print(f"\nfasttrain: stopped; to resume, run again: {again}", file=sys.stderr)
        return interrupts.exit_code(stop)


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
        "locate": _locate,
        "analyse": _analyse,
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
    config = preset_config("sweep", arguments)
    default = Sweep(preset="", config=config, options=RunOptions())
    command = parse(Sweep, "sweep", arguments, default)
    from .session import sweep

    return sweep(
        check(command.config, "command line"),
        check_options(command.options),
        name=Path(command.preset).stem,
        command=shlex.join(["fasttrain", "sweep", *arguments]),
        dry_run=command.dry_run,
    )


def _train(arguments: list[str]) -> int:
    config = preset_config("train", arguments)
    default = Train(
        preset="",
        data=config.data,
        network=config.network,
        training=config.training,
        options=RunOptions(),
        plr=tyro.MISSING,
    )
    command = parse(Train, "train", arguments, default)
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


def _locate(arguments: list[str]) -> int:
    config = preset_config("locate", arguments)
    default = Locate(
        preset="",
        data=config.data,
        network=config.network,
        training=config.training,
        options=RunOptions(),
        flr=config.grid.flr,
        seeds=config.grid.seeds,
    )
    command = parse(Locate, "locate", arguments, default)
    parts = {"data": command.data, "network": command.network, "training": command.training}
    grid = dataclasses.replace(config.grid, flr=command.flr, seeds=command.seeds)
    checked = check(Config(**parts, grid=grid), "command line")
    from .analysis.locate import Task, locate

    return locate(
        checked,
        check_options(command.options),
        Task(command.plr, command.ratio, command.boundaries, command.share),
        name=Path(command.preset).stem,
        arguments=arguments,
        command=shlex.join(["fasttrain", "locate", *arguments]),
        dry_run=command.dry_run,
    )


def _report(arguments: list[str]) -> int:
    command = parse(Report, "report", arguments)
    if not 0.1 <= command.interval <= 86400:
        raise UsageError(f"--interval {command.interval:g}: must be 0.1 to 86400 seconds")
    from .session import report

    return report(command.store, command.interval if command.watch else None)


def _analyse(arguments: list[str]) -> int:
    command = parse(Analyse, "analyse", arguments)
    if command.k < 1:
        raise UsageError(f"--k {command.k}: must be at least 1")
    from .analysis.images import Place
    from .analysis.selection import Request
    from .session import analyse

    place = Place(
        device=command.device,
        data_root=command.data_root,
        dataset=command.dataset,
        command=shlex.join(["fasttrain", "analyse", *arguments]),
    )
    request = Request(only=command.only, low=command.low, high=command.high, k=command.k)
    return analyse(command.store, request, place)


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
    command = parse(DATA_ACTIONS[action], f"data {action}", rest)
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
    command = parse(Bench, "bench", arguments)
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
    command = parse(BenchGrid, "bench grid", arguments)
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
