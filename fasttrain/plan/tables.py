"""From the tables of a TOML file, or of keywords in Python, to tables that name the kind of a part.

    [data]       dataset = "cifar10"   the same as  kind = "cifar10"
                 dataset = "a.npz"                  kind = "npz",  path = "a.npz"
                 dataset = "a/folder"               kind = "folder" or "hugging-face",  path = ...
    [network]    model = "mlp"                      kind = "mlp"

In Python a part may also be given as itself, or as the function of a custom one.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from fasttrain_data.catalogue import DATASETS, is_saved_dataset, known
from fasttrain_data.errors import DataError

from ..errors import UsageError, nearest
from ..experiments.kinds import KINDS as EXPERIMENTS
from ..experiments.kinds import Chain, Leg, PlrFlr
from ..settings.data.kinds import DATA
from ..settings.limits import shown
from ..settings.networks.kinds import NETWORKS, ConvNet
from ..settings.optimizers.kinds import KINDS
from ..settings.part import keys

Table = dict[str, Any]
PARTS = ("data", "network", "optimizer")
"""sections of which there are several kinds"""
_KINDS: dict[str, Mapping[str, Any]] = {
    "data": DATA,
    "network": NETWORKS,
    "optimizer": KINDS,
    "experiment": EXPERIMENTS,
}
_TAGS = {
    "data": ["kind", "dataset"],
    "network": ["kind", "model"],
    "optimizer": ["kind"],
    "experiment": ["kind"],
}
DEFAULT_RADIUS = ConvNet().radius


def with_kinds(table: Mapping[str, Any], origin: str) -> Table:
    """The table of a configuration in which every part that has kinds names its own.

    Raises:
        UsageError: a kind that is not known; keys that name two; a radius without a sphere.
    """
    parts = {
        name: tag(_plain(table.get(name, {})), origin)
        for name, tag in (("data", _data), ("network", _network), ("optimizer", _optimizer))
    }
    network, optimizer = parts["network"], parts["optimizer"]
    if isinstance(network, dict) and isinstance(optimizer, dict):
        _check_radius(network, optimizer, origin)
    return {**table, **parts, "experiment": _experiment(table.get("experiment", {}), origin)}


def part_keys(name: str, tag: str, below: Sequence[str] = ()) -> list[str]:
    """The keys that a part of a kind has in TOML, or a leg of a chain."""
    if name == "experiment" and below:
        return keys(Leg)
    tags = _TAGS[name]
    return [*tags, *(key for key in keys(_KINDS[name][tag]) if key not in tags)]


def section_keys(name: str, config: Any) -> set[str]:
    """The keys that a section of a configuration may have, of whatever kind it is."""
    if name in _KINDS:
        return {key for tag in _KINDS[name] for key in part_keys(name, tag)}
    return {field.name for field in dataclasses.fields(getattr(config, name))}


def _plain(part: Any) -> Any:
    """A part as its table."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        table = dataclasses.asdict(part)
        # A part has a radius, be it given or not.
        if table.get("radius") == DEFAULT_RADIUS:
            del table["radius"]
        return table
    if callable(part):
        return {"kind": "custom", "factory": part}
    return dict(part) if isinstance(part, Mapping) else part


def _optimizer(table: Any, origin: str) -> Any:
    if not isinstance(table, dict):
        return table
    kind = table.get("kind", "sphere")
    return {**table, "kind": _known(kind, KINDS, f"{origin}: optimizer.kind")}


def _experiment(table: Any, origin: str) -> Any:
    table = dataclasses.asdict(table) if isinstance(table, PlrFlr | Chain) else table
    if not isinstance(table, dict):
        return table
    kind = table.get("kind", "plr-flr")
    return {**table, "kind": _known(kind, EXPERIMENTS, f"{origin}: experiment.kind")}


def _network(table: Any, origin: str) -> Any:
    if not isinstance(table, dict):
        return table
    named = [key for key in ("model", "kind") if key in table]
    if len(named) == 2 and table["model"] != table["kind"]:
        raise UsageError(
            f"{origin}: network.kind = {shown(table['kind'])} and network.model ="
            f" {shown(table['model'])}: both name the network; give one"
        )
    key = named[-1] if named else "kind"
    rest = {name: value for name, value in table.items() if name not in named}
    model = table.get(key, "convnet")
    return {"model": _known(model, NETWORKS, f"{origin}: network.{key}"), **rest}


def _data(table: Any, origin: str) -> Any:
    if not isinstance(table, dict):
        return table
    if "dataset" not in table:
        kind = table.get("kind", "digits")
        return {**table, "kind": _known(kind, DATA, f"{origin}: data.kind")}
    if "kind" in table:
        raise UsageError(
            f"{origin}: data.dataset = {shown(table['dataset'])} and data.kind ="
            f" {shown(table['kind'])}: both name the data; give one"
        )
    rest = {name: value for name, value in table.items() if name != "dataset"}
    return {**_of_dataset(table["dataset"], f"{origin}: data.dataset"), **rest}


def _of_dataset(dataset: Any, where: str) -> Table:
    """The kind, and the path, of a data set's name or path."""
    if not isinstance(dataset, str):
        raise UsageError(f"{where} = {shown(dataset)}: must be a name or a path in quotes")
    if dataset in DATASETS:
        return {"kind": dataset}
    if dataset.endswith(".npz"):
        return {"kind": "npz", "path": dataset}
    try:
        if dataset and is_saved_dataset(dataset):
            return {"kind": "hugging-face", "path": dataset}
        if os.sep not in dataset and not (dataset and os.path.isdir(dataset)):
            known(dataset)
    except DataError as error:
        raise UsageError(f"{where}: {error}") from None
    return {"kind": "folder", "path": dataset}


def _known(kind: Any, kinds: Mapping[str, Any], where: str) -> str:
    if not isinstance(kind, str) or kind not in kinds:
        hint = nearest(kind, kinds) if isinstance(kind, str) else ""
        raise UsageError(f"{where} = {shown(kind)}: must be {', '.join(kinds)}{hint}")
    return kind


def _check_radius(network: Table, optimizer: Table, origin: str) -> None:
    if optimizer["kind"] != "sphere" and "radius" in network:
        raise UsageError(
            f"{origin}: network.radius = {shown(network['radius'])}: there is no sphere with"
            f" optimizer.kind = {optimizer['kind']!r}; leave it out"
        )
