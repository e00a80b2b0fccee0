"""The identity that the description of a stage has."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

HASH_LENGTH = 16


LENGTH = ("epochs", "until_loss")
"""of a leg of a path what is no knob"""


DEFAULTS = {"k": None, "inherit": "weights", "until_loss": None}
"""Values of a stage that its identity leaves out, so that a field may be added to them."""


def digest(content: Any) -> str:
    """Hash of a value's canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def torch_version() -> str:
    """What identities hold of torch's version, such as 2.14, read without importing torch."""
    return ".".join(version("torch").split(".")[:2])


def path_of(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Knobs and epochs of the legs from the root, from a stage.json; from old ones by their rates.

    Of an average those to the leg that it reads.
    """
    if about.get("path"):
        return about["path"]
    first = about["epochs"] if about["parent"] is None else about["start_epoch"]
    path = [{"lr": about["plr"], "epochs": first}]
    if about["kind"] == "finetune":
        path.append({"lr": about["flr"], "epochs": about["epochs"]})
    return path


def stage_identity(about: Mapping[str, Any]) -> str:
    """The identity of a stage, from its stage.json; values equal to their defaults are left out."""
    if about["parent"] is None:
        sections = sorted(about["setup"].items())
        rest = {"setup": [[name, json.dumps(part, sort_keys=True)] for name, part in sections]}
    else:
        rest = {"parent": about["parent"]}
    *_, knobs = path_of(about)
    own = {
        "kind": about["kind"],
        **{name: value for name, value in knobs.items() if name not in LENGTH},
        **{name: about[name] for name in ("seed", "epochs")},
        **{n: about[n] for n, default in DEFAULTS.items() if about.get(n, default) != default},
    }
    return digest({**own, **rest})
