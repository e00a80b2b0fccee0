"""Where a command's time goes: phases of it, told at its end where `--timings` asks for them."""

import contextlib
import time
from collections.abc import Iterator

_seconds: dict[str, float] = {}
_open: list[tuple[str, float]] = []


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Count wall time under a name, as `with` or as a decorator.

    A phase inside another one is counted once, under its own name.
    """
    _pause()
    _open.append((name, time.monotonic()))
    try:
        yield
    finally:
        _pause()
        _open.pop()
        if _open:
            _open[-1] = (_open[-1][0], time.monotonic())


def _pause() -> None:
    """Count what the innermost phase has taken up to now."""
    if _open:
        name, since = _open[-1]
        _seconds[name] = _seconds.get(name, 0.0) + time.monotonic() - since


@contextlib.contextmanager
def collected() -> Iterator[dict[str, float]]:
    """The seconds of all phases from here on, by name, in the order in which they began."""
    _seconds.clear()
    with phase(REST):
        yield _seconds


REST = "imports, checks and the rest"


def sentence(seconds: dict[str, float]) -> str:
    """Phases of at least a tenth of a second, and the sum of all."""
    parts = [f"{name} {taken:.1f} s" for name, taken in seconds.items() if taken >= 0.05]
    return f"timings: {', '.join(parts)}; together {sum(seconds.values()):.1f} s"
