"""Paths and names that a command was given, checked before anything heavy is imported.

A slip is told at once instead of after the seconds that torch takes.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from fasttrain_data.catalogue import cache_dir, existing, expanded, is_name, known
from fasttrain_data.errors import DataError, DataUnavailable

from ..errors import EnvironmentProblem, UsageError
from ..plan.config import Config, RunOptions, check, load_config, presets
from ..settings.custom import is_factory
from .marker import check_store


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors of `fasttrain_data` into those that the command line prints in one line."""
    try:
        yield
    except DataError as error:
        raise UsageError(str(error)) from None
    except DataUnavailable as error:
        raise EnvironmentProblem(str(error)) from None


def check_training(config: Config, options: RunOptions, name: str) -> None:
    """Check what all commands that train are given besides values.

    Args:
        name: names the default store, runs/<name>.

    Raises:
        UsageError: no such data set.
        EnvironmentProblem: a directory that cannot be used.
    """
    with one_line_errors():
        config.data.check(options.data_root)
    check_dataset(None, options.data_root)
    check_store(options.store or Path("runs") / name, create=True)


def check_merge(target: Path, stores: Sequence[Path]) -> None:
    """Check which stores are to be joined.

    Raises:
        UsageError: none, or the target itself.
        EnvironmentProblem: something that is no store of this version's format.
    """
    if not stores:
        raise UsageError("merge needs the stores to join: fasttrain merge TARGET STORE...")
    check_store(target, create=True)
    for store in stores:
        check_store(store, create=False)
        if target.exists() and store.samefile(target):
            raise UsageError(f"{store}: is the target of the merge itself")


def check_dataset(dataset: str | None, root: Path | None = None) -> None:
    """Check a data set's name or path, and the directory where data sets are kept.

    Raises:
        UsageError: no such data set or file.
        EnvironmentProblem: the directory is none.
    """
    with one_line_errors():
        if dataset is not None:
            known(dataset)
        folder = cache_dir(root)
    if folder.exists() and not folder.is_dir():
        raise EnvironmentProblem(f"{folder}: not a directory: data sets cannot be kept in it")


def check_source(source: str | None, root: Path | None = None) -> None:
    """As `check_dataset`; a function that makes images is looked for when it is called."""
    check_dataset(None if source is None or is_factory(source) else source, root)


def check_images(source: str, root: Path | None, image_size: int | None = None) -> None:
    """As `check_source`; of a preset or a TOML file its data."""
    config = config_of(source, image_size)
    if config is None:
        check_source(source, root)
    else:
        with one_line_errors():
            config.data.check(root)


def config_of(source: str, image_size: int | None = None) -> Config | None:
    """The configuration that has the data, if a preset or a TOML file gives them, or a size.

    Raises:
        UsageError: these have no size to choose.
    """
    if image_size is not None:
        table = {"data": {"dataset": source, "image_size": image_size}}
        return check(table, "command line")
    given = not is_name(source) and (source.endswith(".toml") or source in presets())
    return load_config(source) if given else None


def check_beton(path: str | Path) -> None:
    """Check that there is a file of a path.

    Raises:
        UsageError: there is none.
    """
    with one_line_errors():
        existing(path)


def check_output(path: Path, split: str | None, mode: str | None) -> None:
    """Check that a data file can be written.

    Raises:
        UsageError: another ending; a split or mode of a file that holds all.
        EnvironmentProblem: there is no directory for it.
    """
    if path.suffix not in (".beton", ".npz"):
        raise UsageError(f"{path}: the name of an FFCV file ends in .beton, of arrays in .npz")
    for flag, value in (("--split", split), ("--mode", mode)):
        if path.suffix == ".npz" and value is not None:
            raise UsageError(
                f"{flag} {value}: applies to .beton files; an .npz holds all splits, exactly"
            )
    with one_line_errors():
        folder = expanded(path).absolute().parent
    if not folder.is_dir():
        raise EnvironmentProblem(f"{path} cannot be written: {folder} is no directory")
