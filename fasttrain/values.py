"""Lists on the command line and in TOML: `1e-5:1e-1:16` (log-spaced), `1e-5,3e-5`, or a TOML array.

Learning rates are canonicalised to six significant digits, so that the same grid written in two
ways has the same identity.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator
from tyro.constructors import PrimitiveConstructorSpec


def canonical(rate: float) -> float:
    """The learning rate as `%.6g` writes it."""
    return float(f"{rate:.6g}")


def _number(value: Any, what: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a {what}") from None


def _spaced(text: str) -> list[float]:
    parts = text.split(":")
    if len(parts) != 3 or not parts[2].strip().isdigit():
        raise ValueError(f"{text!r}: a range is FIRST:LAST:COUNT, for instance 1e-5:1e-1:16")
    first, last, count = (_number(part, "number") for part in parts)
    if not (0 < first < last < math.inf) or count < 2:
        raise ValueError(f"{text!r}: a range needs 0 < FIRST < LAST and COUNT of at least 2")
    ratio = math.log(last / first) / (count - 1)
    return [first * math.exp(ratio * index) for index in range(int(count))]


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",")] if value.strip() else []
    items = list(value) if isinstance(value, list | tuple) else [value]
    for item in items:
        # Text is for the command line; a TOML array holds numbers.
        if isinstance(item, str):
            raise ValueError(f"{item!r} is text: write numbers without quotes in an array")
    return items


def learning_rates(value: Any) -> tuple[float, ...]:
    """Ascending learning rates from text, a number or a list of numbers.

    Raises:
        ValueError: empty, not numbers, not above zero, not finite, or twice the same.
    """
    if isinstance(value, str) and ":" in value:
        rates = _spaced(value)
    else:
        rates = [_number(item, "learning rate") for item in _items(value)]
    for rate in rates:
        if not (0 < rate < math.inf):
            raise ValueError(f"{rate:g}: a learning rate is a finite number above 0")
    return _ascending([canonical(rate) for rate in rates], "learning rate")


def epoch_counts(value: Any) -> tuple[int, ...]:
    """Ascending whole numbers above zero; `none` or an empty list means no averages."""
    numbers = [] if value == "none" else [_number(item, "whole number") for item in _items(value)]
    if isinstance(value, str) and not numbers and value != "none":
        raise ValueError("empty: give whole numbers, for instance 2,5,10, or none")
    for number in numbers:
        if not (number >= 1 and number.is_integer() and number < 1e9):
            raise ValueError(f"{number:g}: a number of checkpoints is a whole number above 0")
    return _ascending([int(number) for number in numbers], "number", allow_empty=True)


def _ascending(values: list[Any], what: str, allow_empty: bool = False) -> tuple[Any, ...]:
    if not values and not allow_empty:
        raise ValueError(f"empty: give at least one {what}")
    values = sorted(values)
    for left, right in zip(values, values[1:], strict=False):
        if left == right:
            raise ValueError(f"{left:g} is given twice")
    return tuple(values)


def _on_command_line(parse: Callable[[Any], tuple[Any, ...]], metavar: str) -> Any:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: parse(texts[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda values: [",".join(f"{v:g}" for v in values) or "none"],
    )


LearningRates = Annotated[
    tuple[float, ...],
    BeforeValidator(learning_rates),
    _on_command_line(learning_rates, "FIRST:LAST:COUNT|LR,LR,..."),
]
EpochCounts = Annotated[
    tuple[int, ...], BeforeValidator(epoch_counts), _on_command_line(epoch_counts, "K,K,...|none")
]
