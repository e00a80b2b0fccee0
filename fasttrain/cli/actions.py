"""The commands that have several actions: `fasttrain data` and `fasttrain bench`."""

from importlib.util import find_spec
from typing import Any

from ..errors import UsageError, nearest
from ..store.inputs import check_beton, check_dataset, check_images, check_output
from .arguments import (
    BENCHMARKS,
    DATA_ACTIONS,
    BenchData,
    BenchGrid,
    BenchKernels,
    DataVerify,
    DataWrite,
)
from .usage import parse


def _one_of(name: str, commands: dict[str, type], arguments: list[str]) -> Any:
    """The arguments of one of several commands; None if only help was asked for."""
    if arguments[0] not in commands:
        raise UsageError(
            f"{name}: {arguments[0]!r} is no action{nearest(arguments[0], commands)}; allowed are"
            f" {', '.join(commands)}, as in: fasttrain {name} {next(iter(commands))} --help"
        )
    return parse(commands[arguments[0]], f"{name} {arguments[0]}", arguments[1:])


def _asks_for_help(name: str, commands: dict[str, type], arguments: list[str]) -> bool:
    if arguments and arguments[0] not in ("-h", "--help"):
        return False
    print(f"usage: fasttrain {name} {'|'.join(commands)} ...; --help after one lists its options")
    return True


def data(arguments: list[str]) -> int:
    """Write, inspect or verify data sets and FFCV files; returns the exit code."""
    if _asks_for_help("data", DATA_ACTIONS, arguments):
        return 0 if arguments else 2
    command = _one_of("data", DATA_ACTIONS, arguments)
    if isinstance(command, DataVerify):
        check_beton(command.file)
    elif isinstance(command, DataWrite):
        check_output(command.out, command.split, command.mode)
        check_images(command.dataset, command.data_root, command.image_size)
    elif command.source.endswith(".beton"):
        if command.image_size is not None:
            raise UsageError("--image-size: applies to a folder of images, not to a .beton file")
        check_beton(command.source)
    else:
        check_images(command.source, command.data_root, command.image_size)
    from . import data as datasets

    if isinstance(command, DataVerify):
        return datasets.verify(command.file)
    root, size = command.data_root, command.image_size
    if isinstance(command, DataWrite):
        return datasets.write(command.dataset, command.out, command.split, command.mode, root, size)
    return datasets.inspect(command.source, root, size)


def bench(arguments: list[str]) -> int:
    """Time something against others; returns the exit code."""
    if _asks_for_help("bench", BENCHMARKS, arguments):
        return 0 if arguments else 2
    command = _one_of("bench", BENCHMARKS, arguments)
    least = 1 if isinstance(command, BenchGrid) else 2
    if command.rounds < least:
        raise UsageError(f"--rounds {command.rounds}: must be at least {least}")
    if isinstance(command, BenchKernels) and command.static:
        from fasttrain_kernels.compiled.static import table

        table()
        return 0
    _check_benchmarks()
    if isinstance(command, BenchKernels):
        return _bench_kernels(command)
    if isinstance(command, BenchData):
        check_dataset(command.dataset)
        from bench.loaders import run as run_data

        return run_data(command.dataset, command.rounds)
    check_dataset(command.dataset, command.data_root)
    from bench.grid.cases import CASES, with_precision
    from bench.grid.tables import compare, sizes

    case = with_precision(CASES[command.case], command.precision)
    dataset, root = command.dataset, command.data_root
    texts = sizes(command.rounds) if command.sizes else compare(case, command.rounds, dataset, root)
    for text in texts:
        print(text, flush=True)
    return 0


def _check_benchmarks() -> None:
    """They come with the source tree, not with the installed package."""
    try:
        there = find_spec("bench.grid")
    except ModuleNotFoundError:
        there = None
    if there is None:
        raise UsageError(
            "fasttrain bench needs the folder bench/ of fasttrain's source tree, which is not"
            " installed here; only bench kernels --static works without it"
        )


def _bench_kernels(command: BenchKernels) -> int:
    from bench.optimizer_step import CASES, tables

    from ..machine.provenance import about

    print(f"{about()}\n")
    for text in tables(list(command.only or CASES), command.rounds, command.compile):
        print(text, flush=True)
    return 0
