"""Finished results in a folder, stages or analyses, each checked whenever it is read.

A result's directory is named by its identity. What lies in it has to be what was written: done.json
ends in its own digest and holds those of the files beside it, and both the id in done.json and the
identity that follows from stage.json have to be the directory's name.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import EnvironmentProblem
from ..machine.files import file_sha256, read_regular, sha256_hex
from . import schema
from .json_files import parse_json, read_json
from .schema import Shapes

# Imported where they are used: what reads finished stages does without torch.
if TYPE_CHECKING:
    from torch import Tensor

DESCRIPTION = "stage.json"
DONE = "done.json"
STATE = "state.safetensors"
METRICS = "metrics.parquet"
NAME = re.compile(f"[0-9a-f]{{{schema.HASH_LENGTH}}}")


class Entry(NamedTuple):
    """A finished stage, or a finished analysis: stage.json and done.json."""

    about: dict[str, Any]
    done: dict[str, Any]


class Entries:
    """The results in a folder, for reading.

    Args:
        shapes: of what lies in it.
    """

    def __init__(self, path: Path, shapes: Shapes) -> None:
        self.path = path
        self.shapes = shapes

    def stages(self) -> list[str]:
        """Ids of the finished stages, sorted."""
        return self._named(DONE)

    def _named(self, file: str) -> list[str]:
        found = (path.parent.name for path in self.path.glob(f"*/{file}"))
        return sorted(name for name in found if NAME.fullmatch(name))

    def is_finished(self, stage: str) -> bool:
        """Whether there is a done.json, whatever it says."""
        return (self.path / stage / DONE).exists()

    def entry(self, stage: str) -> Entry | None:
        """stage.json and done.json, or None if the stage is not finished.

        Raises:
            EnvironmentProblem: done.json or stage.json is not what was written, or of another
            stage, or a file that done.json lists is missing or of another size.
        """
        folder, remedy = str(self.path / stage), self.remedy(stage)
        # Paths as text: a large store has tens of thousands of them.
        if not os.path.exists(f"{folder}/{DONE}"):
            return None
        record = read_json(Path(folder, DONE), self.shapes.done, remedy, sealed=True)
        if record["id"] != stage:
            raise self._misplaced(stage, record["id"])
        for name, listed in record["files"].items():
            path = f"{folder}/{name}"
            try:
                size = os.stat(path).st_size
            except OSError:
                raise EnvironmentProblem(f"{path}: is missing; {remedy}") from None
            if size != listed["bytes"]:
                wrong = f"has {size} bytes instead of {listed['bytes']}"
                raise EnvironmentProblem(f"{path}: {wrong}; {remedy}")
        content = self.content(stage, DESCRIPTION, record)
        return Entry(self._described(stage, content), record)

    def _described(self, stage: str, content: bytes) -> dict[str, Any]:
        """What a stage.json says, if it is the stage's."""
        path = self.path / stage / DESCRIPTION
        about = parse_json(path, content, self.shapes.description, self.remedy(stage))
        if (identity := self.shapes.identity(about)) != stage:
            raise self._misplaced(stage, identity)
        return about

    def _misplaced(self, stage: str, owner: str) -> EnvironmentProblem:
        """A directory that holds another stage than its name says."""
        here, there = self.path / stage, self.path / owner
        back = f"exchange the two, or delete both, {self.again}"
        if not there.exists():
            back = f"rename it to {there}, or delete it, {self.again}"
        return EnvironmentProblem(f"{here}: holds what belongs into {there}; {back}")

    @property
    def noun(self) -> str:
        """What lies here."""
        return "stage" if self.shapes is schema.STAGES else "analysis"

    @property
    def again(self) -> str:
        """What makes again what is deleted here."""
        command = "the sweep" if self.noun == "stage" else "fasttrain analyse (or locate)"
        return f"and run {command} again"

    def remedy(self, stage: str) -> str:
        """What to do about a damaged stage."""
        return f"delete {self.path / stage} {self.again}"

    def description(self, stage: str) -> dict[str, Any]:
        """The content of a finished stage's stage.json; raises as `read`."""
        return self._finished(stage).about

    def unfinished_description(self, stage: str) -> dict[str, Any] | None:
        """The content of stage.json of a stage that was begun; None if it failed before that."""
        path = self.path / stage / DESCRIPTION
        if not path.exists():
            return None
        return self._described(stage, read_regular(path, self.remedy(stage)))

    def read(self, stage: str, name: str) -> bytes:
        """A result file of a finished stage, checked against its digest.

        Raises:
            EnvironmentProblem: the file is missing or is not what was written.
        """
        return self.content(stage, name, self._finished(stage).done)

    def content(self, stage: str, name: str, record: dict[str, Any]) -> bytes:
        """As `read`, of a stage whose done.json has been read: another one may be there by now."""
        sha256 = self._listed(stage, name, record)
        path = self.path / stage / name
        content = read_regular(path, self.remedy(stage))
        if sha256_hex(content) != sha256:
            raise EnvironmentProblem(f"{path}: does not match its sha256; {self.remedy(stage)}")
        return content

    def checked(self, stage: str, name: str) -> Path:
        """The path of a result file, for reading it in parts.

        Raises:
            EnvironmentProblem: the file is missing or is not what was written.
        """
        sha256 = self._listed(stage, name, self._finished(stage).done)
        path = self.path / stage / name
        if file_sha256(path, self.remedy(stage)) != sha256:
            raise EnvironmentProblem(f"{path}: does not match its sha256; {self.remedy(stage)}")
        return path

    def _listed(self, stage: str, name: str, record: dict[str, Any]) -> str:
        """The digest of a result file of a finished stage."""
        if name not in record["files"]:
            path = self.path / stage / name
            raise EnvironmentProblem(f"{path}: is missing; {self.remedy(stage)}")
        return record["files"][name]["sha256"]

    def read_tensors(self, stage: str, name: str) -> dict[str, "Tensor"]:
        """The tensors of a result file of a finished stage."""
        import safetensors.torch

        return safetensors.torch.load(self.read(stage, name))

    def _finished(self, stage: str) -> Entry:
        entry = self.entry(stage)
        if entry is None:
            raise EnvironmentProblem(
                f"{self.path / stage / DONE}: is missing; {self.remedy(stage)}"
            )
        return entry
