"""The lab of a finished set-up: its configuration and its images, found again from the store."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import Config, RunOptions, check
from ..errors import EnvironmentProblem, UsageError
from ..lab import Lab, open_lab
from ..precision import resolve_device
from ..provenance import provenance
from ..results import Finished
from ..settings.part import given


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where analyses run, and where their images are."""

    device: str = "auto"
    data_root: Path | None = None
    dataset: str | None = None
    """name or path of the images, if they are not where they were"""
    command: str = ""
    """for the record"""


def reopen(stage: Finished, store: Path, place: Place) -> Lab:
    """The lab that a finished stage was made in, with the images that it was trained on.

    Raises:
        UsageError, EnvironmentProblem: the images are not there, or are others.
    """
    device = resolve_device(place.device)
    data = stage.about["setup"]["data"]
    source = _source(stage.about)
    if place.dataset is not None:
        source["dataset"] = place.dataset
    config = configuration(stage, store, {**source, **given(data)})
    precision = config.training.precision
    record = provenance(device, precision, place.command)
    options = RunOptions(data_root=place.data_root)
    try:
        lab = open_lab(config, options, store, device, precision, record)
    except (UsageError, EnvironmentProblem) as error:
        remedy = "" if place.dataset else "; say where they are with --dataset"
        raise type(error)(f"images of {stage.about['dataset']}: {error}{remedy}") from None
    if lab.data.digest != data["digest"]:
        raise UsageError(
            f"{source['dataset']!r} holds other images than those of {stage.about['dataset']!r} in"
            f" {store} (digest {lab.data.digest[:12]}, not {data['digest'][:12]}): give theirs with"
            " --dataset"
        )
    return lab


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


def _source(about: Mapping[str, Any]) -> dict[str, Any]:
    """What names the images: dataset, n_train, n_test."""
    return dict(about["source"])
