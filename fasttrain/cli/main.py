"""The command line: `fasttrain COMMAND ...`, with the commands of `OVERVIEW`.

Exit codes: 0 done, 1 something around the program is wrong or a stage failed, 2 wrong usage, 141
nobody reads the output; 130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP. Every command checks
its paths and values before it imports what takes seconds, so that help and mistakes are immediate.
"""

import contextlib
import dataclasses
import io
import shlex
import sys
from pathlib import Path
from typing import Any

import tyro

from ..errors import EnvironmentProblem, UsageError, nearest
from ..experiments.kinds import UNUSED, Chain, refuse_beside_chain
from ..machine import interrupts, timings
from ..machine.text import ESCAPED
from ..plan.config import Config, GridConfig, check, check_options, presets
from ..plan.flags import changed_parts
from ..plan.shards import Shard
from ..settings.limits import in_one_line
from ..settings.rates import learning_rates
from ..store.inputs import check_training
from . import pipes, stores
from .actions import bench, data
from .arguments import Cell, Locate, Sweep, Train
from .completion import PRINT_COMPLETION, completion
from .export import export
from .usage import parse, preset_config, start_server

OVERVIEW = """\
usage: fasttrain COMMAND ...

  sweep PRESET|FILE.toml   run a grid of pre-training x fine-tuning learning rates
  train PRESET|FILE.toml   run one cell of such a grid
  locate PRESET|FILE.toml  find the boundaries of the regimes, and propose a grid
  analyse STORE            measure geometry, norms, sharpness, features, transfer of its stages
  report STORE             rebuild tables, figures and report.html of a store
  serve STORE...           show the reports of stores at an address of this machine
  merge TARGET STORE...    join the stores of shards, or of machines, into one
  export STORE --to TOOL   write results for tensorboard, wandb, mlflow, csv or latex
  status STORE             show what is finished, and what runs now
  note STORE STAGE TEXT    write a note on a stage, for tables and page; note STORE lists them
  doctor [STORE]           verify every byte of a store, or check this machine
  data inspect DATASET     fetch a data set, or open a .beton file, and print what it holds
  data write DATASET FILE  write it as an FFCV file; data verify FILE checks every byte of one
  bench kernels|data       time the optimiser's step, or the loaders, against others
  bench grid               time a grid against the published loop

presets: {presets}
fasttrain COMMAND --help lists its options; --timings after any command shows where its time went;
fasttrain --print-completion bash|zsh prints the script that completes commands in a shell.
"""
TIMINGS = "--timings"


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a sign shows a question mark, and a path the bytes it is of:
        # neither stops a sweep.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)
    interrupts.keep(interrupts.heeded())
    try:
        code = run(sys.argv[1:])
    except SystemExit as stop:
        # Help has been shown.
        code = int(stop.code or 0)
    sys.exit(pipes.flushed(code))


def run(arguments: list[str]) -> int:
    """Run a command line; returns its exit code. A user's mistake is one line on standard error."""
    if TIMINGS not in arguments:
        return _run_command(arguments)
    with timings.collected() as seconds:
        code = _run_command([argument for argument in arguments if argument != TIMINGS])
    print(timings.sentence(seconds), file=sys.stderr)
    return code


def _run_command(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except UsageError as error:
        return _say(error, 2)
    except EnvironmentProblem as error:
        return _say(error, 1)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and pipes.reader_has_left():
            return pipes.LEFT
        words = [str(part) for part in (error.filename, error.strerror) if part]
        return _say(": ".join(words) or error, 1)
    except KeyboardInterrupt as stop:
        again = shlex.join(["fasttrain", *arguments])
        with contextlib.suppress(OSError):
            # After SIGHUP there may be no terminal any more.
            print(f"\nfasttrain: stopped; to resume, run again: {again}", file=sys.stderr)
        return interrupts.exit_code(stop)


def _say(message: object, code: int) -> int:
    print(f"fasttrain: {in_one_line(str(message))}", file=sys.stderr)
    return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(OVERVIEW.format(presets=", ".join(presets())), end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from .. import __version__

        print(__version__)
        return 0
    if arguments[0] == PRINT_COMPLETION:
        print(completion(arguments[1] if arguments[1:] else ""), end="")
        return 0
    commands = {
        "sweep": _sweep,
        "train": _train,
        "locate": _locate,
        "analyse": stores.analyse,
        "report": stores.report,
        "serve": stores.serve,
        "merge": stores.merge,
        "export": export,
        "status": stores.status,
        "note": stores.note,
        "doctor": stores.doctor,
        "data": data,
        "bench": bench,
    }
    name, *rest = arguments
    if name not in commands:
        raise UsageError(
            f"{name!r} is no command{nearest(name, commands)}; allowed are {', '.join(commands)}"
        )
    return commands[name](rest)


def _sweep(arguments: list[str]) -> int:
    config = preset_config("sweep", arguments)
    command = parse(Sweep, "sweep", arguments, Sweep.of(config, grid=config.grid))
    if isinstance(config.experiment, Chain):
        _refuse_flags(command, config)
    config = _checked(command, config, command.grid)
    shard = None if command.shard is None else Shard.read(command.shard)
    return _run(command, config, "sweep", arguments, dry_run=command.dry_run, shard=shard)


def _train(arguments: list[str]) -> int:
    config = preset_config("train", arguments)
    _refuse_chain("train", arguments, config)
    command = parse(Train, "train", arguments, Train.of(config, plr=tyro.MISSING))
    plr, flr = _rates("--plr", command.plr), _rates("--flr", command.flr)
    if not 0 <= command.seed < 2**63:
        raise UsageError(f"--seed {command.seed}: must be at least 0 and below 2^63")
    grid = GridConfig(plr=plr, flr=flr, k=command.k, averaged=config.grid.averaged)
    config = _checked(command, config, grid)
    return _run(command, config, "train", arguments, seeds=[command.seed], every_epoch=True)


def _run(command: Cell, config: Config, verb: str, arguments: list[str], **how: Any) -> int:
    """Run a sweep, or a cell of one."""
    name = Path(command.preset).stem + (f"-{how['shard'].name}" if how.get("shard") else "")
    options = check_options(command.options, config)
    check_training(config, options, name)
    if not how.get("dry_run") and options.engine == "local":
        start_server(options.processes)
    from .commands import sweep

    words = shlex.join(["fasttrain", verb, *arguments])
    return sweep(config, options, name=name, command=words, **how)


def _checked(command: Cell, config: Config, grid: GridConfig | None = None) -> Config:
    """The configuration of a preset or file with the command's flags."""
    table = changed_parts(vars(config), command.data, command.network, command.optimizer)
    table["training"] = dataclasses.asdict(command.training)
    table["grid"] = dataclasses.asdict(grid or GridConfig())
    table["experiment"] = dataclasses.asdict(config.experiment)
    return check(table, "command line")


def _refuse_chain(name: str, arguments: list[str], config: Config) -> None:
    """Raise for a command that takes grids alone."""
    if isinstance(config.experiment, Chain):
        raise UsageError(
            f"{name} takes a PLR x FLR grid, and {arguments[0]} is a chain of legs: run it with"
            f" fasttrain sweep {shlex.quote(arguments[0])}"
        )


def _refuse_flags(command: Sweep, config: Config) -> None:
    """Raise for flags that mean nothing to a chain."""
    given: dict[str, list[str]] = {}
    for name, keys in UNUSED.items():
        before, after = getattr(config, name), getattr(command, name)
        given[name] = [key for key in keys if getattr(before, key) != getattr(after, key)]
    refuse_beside_chain(given, "command line")


def _rates(flag: str, rate: float | None) -> tuple[float, ...]:
    """The rate of a flag as a list; an empty one if it was not given."""
    try:
        return () if rate is None else learning_rates(rate)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _locate(arguments: list[str]) -> int:
    config = preset_config("locate", arguments)
    _refuse_chain("locate", arguments, config)
    default = Locate.of(config, flr=config.grid.flr, seeds=config.grid.num_seeds)
    command = parse(Locate, "locate", arguments, default)
    grid = dataclasses.replace(config.grid, flr=command.flr, seeds=command.seeds)
    config = _checked(command, config, grid)
    options = check_options(command.options, config)
    name = Path(command.preset).stem
    check_training(config, options, f"{name}-locate")
    from ..boundaries.task import Task, plan_search

    task = Task(command.plr, command.ratio, command.boundaries, command.share)
    # Raises for a task that is not possible.
    plan_search(config, task)
    if not command.dry_run and options.engine == "local":
        start_server(options.processes)
    from .commands import locate

    return locate(
        config,
        options,
        task,
        name=name,
        arguments=arguments,
        command=shlex.join(["fasttrain", "locate", *arguments]),
        dry_run=command.dry_run,
    )
