"""What made the results of a store: versions, devices, dates and commands."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .store import Store
from .tables import Finished


def origin(found: Sequence[Finished]) -> dict[str, str | float | None]:
    """Versions, devices, dates and commands of the runs that made the stages, and their time.

    Where runs differ, the values stand in one string, in the order of the dates.
    """
    records = _by_date(f.done["provenance"] for f in found)
    merged: dict[str, str | float | None] = {}
    # The latest says the most.
    for key in dict.fromkeys(key for record in reversed(records) for key in record):
        values = list(dict.fromkeys(str(record[key]) for record in records if record.get(key)))
        if key == "date" and len(values) > 1:
            values = [f"{values[0]} to {values[-1]}"]
        merged[key] = "; ".join(values) or None
    merged["time_s"] = sum(f.done["time_s"] for f in found)
    return merged


def analysis_commands(store: str | Path) -> list[str]:
    """The commands that made the analyses of the store, each once, in the order of their dates.

    Raises:
        EnvironmentProblem: not a store, or a damaged file in it.
    """
    analyses = Store.open(Path(store), create=False).analyses
    summaries = [analyses.summary(analysis) for analysis in analyses.stages()]
    records = _by_date(summary["provenance"] for summary in summaries if summary is not None)
    commands = (record.get("command") for record in records)
    return list(dict.fromkeys(str(command) for command in commands if command))


def _by_date(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(records, key=lambda record: str(record.get("date") or ""))
