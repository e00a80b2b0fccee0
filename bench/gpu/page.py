"""What was measured, as one Markdown page."""

from typing import Any


def page(found: dict[str, Any]) -> str:
    """A section for every part; a part that failed says why."""
    lines = ["# Measurements on a GPU", ""]
    if found.get("dry run"):
        lines += ["**Dry run on a CPU with tiny sizes: no figure means anything.**", ""]
    lines += [
        "us are per step and model; columns named `predicted` are computed from counts and the"
        " measured ceilings, not measured; `of the roof` is the larger of the predicted times of"
        " bytes (normalisation, ReLU and pooling one operation each) and FLOPs, over the measured"
        " one.",
    ]
    for name, part in found["parts"].items():
        lines += ["", f"## {name}", ""]
        if "error" in part:
            lines += [f"failed: {part['error']}", ""]
        if "found" not in part:
            continue
        lines += _section(part["found"])
        if "s" in part:
            lines += ["", f"{part['s']:.1f} s"]
    return "\n".join(lines) + "\n"


def _section(found: Any) -> list[str]:
    if isinstance(found, list):
        return page_table(found)
    facts = {name: value for name, value in found.items() if not isinstance(value, list)}
    lines = ["| | |", "|---|---|", *(f"| {k} | {_cell(v)} |" for k, v in facts.items())]
    for name, value in found.items():
        if isinstance(value, list) and value:
            rows = isinstance(value[0], dict)
            lines += [
                "",
                f"{name}:",
                "",
                *(page_table(value) if rows else [f"    {v}" for v in value]),
            ]
    return lines


def page_table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as a Markdown table of all columns that any has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        lines.append(f"| {' | '.join(_cell(row.get(column, '')) for column in columns)} |")
    return lines


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")
