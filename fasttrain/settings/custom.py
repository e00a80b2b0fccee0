"""Parts that users bring: a function by its name, told options, known by its source.

A name is `package.module:function`; modules are found as `python` run in the current directory
finds them. A class does for a function, and so does `module:Class.method`. In Python the function
itself stands for its name.
"""

import hashlib
import importlib
import importlib.util
import inspect
import math
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from ..errors import UsageError, nearest
from .limits import in_one_line, shown

FORM = "must be package.module:function, or in Python the function itself"
LENGTH = 16
"""hexadecimal digits of a source's digest"""


def factory_name(value: Any) -> str:
    """The name of a function, or a name as it is.

    Raises:
        ValueError: neither a name nor a function that can be found again by one.
    """
    if callable(value):
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if not module or not name or "<" in name:
            raise ValueError(
                "must be a function or class at the top of a module, by which workers find it again"
            )
        if module == "__main__":
            raise ValueError(
                f"{name} is defined in the main script, which workers do not run: put it into a"
                " module beside it and import it from there"
            )
        return f"{module}:{name}"
    if not isinstance(value, str):
        raise ValueError(FORM)
    module, colon, name = value.partition(":")
    if not (colon and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))):
        raise ValueError(FORM)
    return value


def is_factory(text: str) -> bool:
    """Whether a text has the form of a factory's name."""
    try:
        return bool(factory_name(text))
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    """A table of options as it is, if an identity can hold it."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("keys must be text")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"holds {value}: numbers must be finite")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"holds a {type(value).__name__}: allowed are text, numbers, lists and tables")


def _options(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError("must be a table of keyword options")
    return _plain(value)


class FromFactory:
    """A part whose `factory` may be given as the function itself: it is kept by its name."""

    factory: Any

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "factory", factory_name(self.factory))
        except ValueError as error:
            raise UsageError(f"factory = {shown(self.factory)}: {error}") from None


Factory = Annotated[str, BeforeValidator(factory_name)]
Options = Annotated[dict[str, Any], BeforeValidator(_options)]


def find(name: str, where: str) -> Callable[..., Any]:
    """The function of a name.

    Args:
        where: the key that holds it, for messages.

    Raises:
        UsageError: no such module or function; the message has the nearest that there is.
    """
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module_name, _, attribute = name.partition(":")
    module = _module(module_name, f"{where} = {name!r}")
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            own = [n for n, v in vars(found).items() if callable(v) and not n.startswith("_")]
            hint = nearest(part, own)
            raise UsageError(f"{where} = {name!r}: {module_name} has no {part!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{where} = {name!r}: is a {type(found).__name__}, not a function")
    return found


def _module(name: str, what: str) -> Any:
    try:
        # Files that were written since are not in the caches of directories.
        importlib.invalidate_caches()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            parent, _, last = error.name.rpartition(".")
            paths = sys.modules[parent].__path__ if parent else [os.getcwd()]
            hint = nearest(last, [module.name for module in pkgutil.iter_modules(paths)])
            place = f"in {parent}" if parent else f"here ({os.getcwd()}) or installed"
            raise UsageError(f"{what}: there is no module {error.name!r} {place}{hint}") from None
        raise UsageError(f"{what}: importing {name} raised {told(error)}") from None
    except Exception as error:
        raise UsageError(f"{what}: importing {name} raised {told(error)}") from None


def call(name: str, where: str, *arguments: Any, options: Mapping[str, Any]) -> Any:
    """What the function of a name gives.

    Raises:
        UsageError: there is none, it does not take these arguments, or it raises.
    """
    function = find(name, where)
    try:
        return function(*arguments, **options)
    except Exception as error:
        raise UsageError(f"{where} = {name!r}: raised {told(error)}") from None


def told(error: BaseException) -> str:
    """An error in one line, with the place in the user's code that it came from."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if Path(code.co_filename) != Path(__file__) and "importlib" not in code.co_filename:
            place = f" ({Path(code.co_filename).name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    text = in_one_line(" ".join(str(error).split()))[:300]
    return f"{type(error).__name__}: {text}{place}"


def source_digest(name: str, where: str) -> str:
    """Digest of the source of the module that defines the function of a name.

    Raises:
        UsageError: there is no such function, or no source of it.
    """
    function = find(name, where)
    defined = sys.modules.get(getattr(function, "__module__", None) or "")
    module = defined or sys.modules[name.partition(":")[0]]
    path = getattr(module, "__file__", None)
    try:
        # In a notebook there is no file, and the function alone has a source.
        content = Path(path).read_bytes() if path else inspect.getsource(function).encode()
    except (OSError, TypeError):
        raise UsageError(
            f"{where} = {name!r}: its source cannot be read, by which results are told apart;"
            " put it into a module of its own"
        ) from None
    return hashlib.sha256(content).hexdigest()[:LENGTH]


def not_one(value: Any, name: str, where: str, needed: str) -> UsageError:
    """That a factory gave something else than is needed."""
    given = f"{shown(value)}" if value is None else f"a {type(value).__name__}"
    return UsageError(f"{where} = {name!r}: returned {given}; {needed} is needed")
