"""The Python that makes one cell of a grid, from the call of `fasttrain.sweep` that made the grid.

A store made from Python records `python -c "import fasttrain as ft; ft.sweep(ft.study(...), ...)"`.
The call of a cell is the same one with other rates: it makes the same stages again, of all seeds.
"""

import ast
from collections.abc import Mapping
from typing import Any

from fasttrain.errors import UsageError

PLACE = "{cell}"
"""where the page writes a cell's rates: plr=[...], flr=[...], k=[...]"""
RATES = ("plr", "flr", "k")


def is_call(words: list[str]) -> bool:
    """Whether a recorded command is a call of the Python interface."""
    return len(words) == 3 and words[:2] == ["python", "-c"] and "ft." in words[2]


def sweep_snippet(code: str) -> str:
    """Two lines of Python, with `PLACE` for the rates of a cell.

    Raises:
        UsageError: the code is no sweep of a grid of which a cell can be run by itself.
    """
    call = _called(code, "sweep")
    study = _called(call.args[0], "study") if call is not None and call.args else None
    if call is None or study is None or not study.args:
        raise UsageError("the recorded Python is no sweep of a study")
    keys = {word.arg: word.value for word in study.keywords if word.arg not in RATES}
    grid = keys.get("grid")
    if isinstance(grid, ast.Dict):
        named = zip(grid.keys, grid.values, strict=True)
        kept = [(k, v) for k, v in named if k is None or ast.literal_eval(k) not in RATES]
        keys["grid"] = ast.Dict([k for k, _ in kept], [v for _, v in kept])
    seeds = [keys.get("seeds"), *_values(keys.get("grid"), "seeds")]
    if any(isinstance(node, ast.Constant) and node.value == "per-rate" for node in seeds):
        raise UsageError("every rate has a seed of its own, and a sweep of one rate has seed 0")
    words = [ast.unparse(study.args[0]), PLACE, *_written(keys)]
    options = _written({word.arg: word.value for word in call.keywords})
    made = ", ".join([f"ft.study({', '.join(words)})", *options])
    return f"import fasttrain as ft\nft.sweep({made})"


def _called(code: str | ast.expr, name: str) -> ast.Call | None:
    """The call `ft.NAME(...)` that code ends in, or that an expression is."""
    if isinstance(code, str):
        try:
            last = ast.parse(code).body[-1]
        except (SyntaxError, ValueError, IndexError, RecursionError):
            return None
        code = last.value if isinstance(last, ast.Expr) else ast.Constant(None)
    is_it = isinstance(code, ast.Call) and ast.unparse(code.func) == f"ft.{name}"
    return code if is_it and isinstance(code, ast.Call) else None


def _values(table: ast.expr | None, key: str) -> list[ast.expr]:
    if not isinstance(table, ast.Dict):
        return []
    named = zip(table.keys, table.values, strict=True)
    return [v for k, v in named if isinstance(k, ast.Constant) and k.value == key]


def _written(keys: Mapping[str | None, Any]) -> list[str]:
    return [f"{key}={ast.unparse(value)}" for key, value in keys.items()]
