"""The workbench of a finished set-up: its configuration and images, found from the store."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..errors import EnvironmentProblem, UsageError
from ..execution.execution import device_and_precision
from ..machine.provenance import provenance
from ..plan.config import Config, RunOptions, check
from ..plan.tables import PARTS
from ..settings.part import given
from ..store.tables import Finished
from ..training.workbench import Workbench, open_workbench


@dataclasses.dataclass(frozen=True, kw_only=True)
class Location:
    """Where analyses run, and where their images are."""

    device: str = "auto"
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    """of a Ray cluster"""
    per_gpu: int = 1
    """of those that measure at once on a cluster, how many on a GPU"""
    processes: int | None = None
    """how many measure at once; by the machine if not given"""
    data_root: Path | None = None
    dataset: str | None = None
    """name or path of the images, if they are not where they were"""
    command: str = ""
    """for the record"""

    def options(self) -> RunOptions:
        """The same of a run."""
        return RunOptions(
            device=self.device,
            engine=self.engine,
            address=self.address,
            per_gpu=self.per_gpu,
            processes=self.processes,
            data_root=self.data_root,
        )


def reopen(stage: Finished, store: Path, location: Location) -> Workbench:
    """The workbench that a finished stage was made in, with the images that it was trained on.

    Raises:
        UsageError, EnvironmentProblem: the images are not there, or are others.
    """
    sections = stage.about["setup"]
    data = sections["data"]
    source = _source(stage.about, location.dataset)
    config = configuration(stage, store, {**source, **_kept(given(data), location.dataset)})
    for name in PARTS:
        part, then = getattr(config, name), sections[name].get("source")
        if then is not None and getattr(part, "source", then) != then:
            raise UsageError(
                f"{name}.factory = {part.factory!r}: its source has changed since {stage.stage} in"
                f" {store} was made ({part.source}, not {then}): restore the source that made it"
            )
    options = location.options()
    device, precision = device_and_precision(config, options)
    record = provenance(device, precision, location.command)
    try:
        workbench = open_workbench(config, options, store, device, precision, record)
    except (UsageError, EnvironmentProblem) as error:
        remedy = "" if location.dataset else "; say where they are with --dataset"
        raise type(error)(f"images of {stage.about['dataset']}: {error}{remedy}") from None
    if workbench.data.digest != data["digest"]:
        raise UsageError(
            f"{config.data.dataset!r} holds other images than those of {stage.about['dataset']!r}"
            f" in {store} (digest {workbench.data.digest[:12]}, not {data['digest'][:12]}):"
            " give the original images with --dataset"
        )
    return workbench


def configuration(stage: Finished, store: Path, data: Mapping[str, Any]) -> Config:
    """The configuration that a finished stage was made with, on data that are given."""
    sections = stage.about["setup"]
    training = {
        **given(sections["training"]),
        "loss": sections["loss"]["kind"],
        **stage.root_length(),
    }
    table = {name: given(sections[name]) for name in ("network", "optimizer")}
    origin = f"{store / stage.stage / 'stage.json'}"
    return check({"data": dict(data), **table, "training": training}, origin)


def _kept(data: dict[str, Any], dataset: str | None) -> dict[str, Any]:
    """What a section of data says of their use; of a factory only if it is to make them."""
    if dataset is None:
        return data
    return {name: value for name, value in data.items() if name not in ("factory", "options")}


def _source(about: Mapping[str, Any], dataset: str | None) -> dict[str, Any]:
    """What finds the images: a kind and what belongs to it, or a data set in their place."""
    source = dict(about["source"])
    if dataset is not None and "base" in source:
        source["base"], dataset = dataset, None
    if dataset is not None:
        subset = {name: source[name] for name in ("n_train", "n_test")}
        size = {"image_size": source["image_size"]} if source.get("image_size") else {}
        return {"dataset": dataset, **subset, **size}
    if "kind" in source:
        del source["dataset"]
    return source
