"""The largest values that a configuration may hold, and how a value is shown in a message.

A limit keeps a slip of the finger from filling the memory before anything runs. Each is a number in
`LIMITS`, and the variable FASTTRAIN_MAX_<NAME> sets another one.
"""

import os
import reprlib
from typing import Any

LIMITS = {
    "STAGES": 100_000,
    "RATES": 10_000,
    "K": 1_000,
    "SEEDS": 10_000,
    "EPOCHS": 100_000,
    "STEPS": 10_000_000,
    "WIDTH": 1_024,
    "PROCESSES": 1_000,
}
"""Stages of a grid; learning rates of one list; checkpoints averaged; seeds; epochs of a stage;
steps of an epoch; channels of the first convolution; processes that train at once."""

VARIABLE = "FASTTRAIN_MAX_"
MOST = 10**9
"""what every count is below, whatever is lifted"""
MAX_TOML_BYTES = 2**20
SMALLEST_RATE, LARGEST_RATE = 1e-200, 1e200
"""of learning rates: their raw rates, and their ratios, are finite numbers above 0"""
LARGEST_RADIUS = 1e6
"""of the sphere, and one over it the smallest: the weights' squares fit float32"""


def within(name: str, value: int) -> int:
    """The value, if it is at most the limit of that name.

    Raises:
        ValueError: it is above; the message says how to lift the limit. Or the variable that
            should lift it holds no number.
    """
    variable = VARIABLE + name
    text = os.environ.get(variable)
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"the variable {variable}={shown(text)} must be a whole number")
    limit = LIMITS[name] if text is None else int(text)
    if value > limit:
        raise ValueError(f"must be at most {limit}; {variable}=... in the environment lifts this")
    return value


class _Short(reprlib.Repr):
    """Values in a few words, however large, deep or long they are."""

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of more than 4,300 digits.
        return repr(x) if x.bit_length() <= 128 else f"<integer of {x.bit_length()} bits>"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlevel = 3


def shown(value: Any) -> str:
    """The value as Python writes it, shortened, in one line."""
    return _SHORT.repr(value)


def in_one_line(text: str) -> str:
    """The text with what cannot be printed, line breaks above all, written as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
