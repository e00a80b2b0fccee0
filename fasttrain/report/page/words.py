"""Texts of the page: configurations side by side, what made the results, durations."""

from collections.abc import Mapping, Sequence
from typing import Any

from fasttrain.report.seed_means import number


def differences(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """What sets each configuration apart from the others, in words; empty for a single one."""
    flat = [dict(flatten(configuration)) for configuration in configurations]
    keys = list(dict.fromkeys(key for pairs in flat for key in pairs))
    apart = [key for key in keys if len({pairs.get(key, "–") for pairs in flat}) > 1]
    return [", ".join(f"{key} = {pairs[key]}" for key in apart if key in pairs) for pairs in flat]


def flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (dotted key, text) pairs, in its order."""
    pairs = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", "–" if value is None else str(value)))
    return pairs


def provenance_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What made the results, as pairs of texts."""
    shown = {key: value for key, value in provenance.items() if key not in ("command", "time_s")}
    pairs = [(key, "unknown" if value is None else str(value)) for key, value in shown.items()]
    if provenance.get("time_s") is not None:
        pairs.append(("computing time", _duration(float(provenance["time_s"]))))
    return pairs


def _duration(time_s: float) -> str:
    if time_s < 60:
        return f"{number(time_s)} s"
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
