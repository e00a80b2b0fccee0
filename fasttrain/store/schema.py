"""The shapes of a store's JSON files; `json_files` reads them.

A shape lists what is read without asking whether it is there. Files may hold more than that.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, RootModel

from ..plan.identity import HASH_LENGTH, digest, stage_identity

Id = Annotated[str, Field(pattern=f"^[0-9a-f]{{{HASH_LENGTH}}}$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""of a file beside: no slash, and no dot in front"""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Kind = Literal["pretrain", "finetune", "swa"]
Plain = str | int | float | bool | None


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Marker(_Shape):
    """store.json"""

    format: int


class _Section(_Shape):
    """Of a part of the setting: what is not its default (`settings.part.section`)"""

    numerics: Count


class _Data(_Section):
    digest: str


class _Network(_Section):
    model: str


class _OfKind(_Section):
    kind: str


class _Setup(_Shape):
    data: _Data
    network: _Network
    optimizer: _OfKind
    loss: _OfKind
    training: _Section
    versions: dict[str, Plain]


class _Source(_Shape):
    dataset: str
    n_train: Count | None
    n_test: Count | None


class _Knobs(_Shape):
    lr: Positive
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class _Leg(_Knobs):
    epochs: Count
    until_loss: Positive | None = None


class StageDescription(_Shape):
    """stage.json of a stage"""

    kind: Kind
    plr: Positive
    flr: Positive | None
    k: Count | None
    seed: Count
    start_epoch: Count
    epochs: Count
    parent: Id | None
    inherit: Literal["weights", "optimizer"]
    """what it starts with of its parent's end"""
    until_loss: Positive | None = None
    """training loss below which it ends before its last epoch"""
    path: Annotated[list[_Leg], Field(min_length=1)] | None = None
    """the legs from the root (`path_of`)"""
    experiment: Literal["plr-flr", "chain", "beginning"] = "plr-flr"
    """what it was planned for; part of no identity"""
    setup: _Setup
    dataset: str
    num_classes: Count
    num_train: Count
    num_test: Count
    guess_loss: Annotated[float, Field(ge=0)]
    """least loss on the training set of a prediction that does not look at the image"""
    test_majority: Annotated[float, Field(gt=0, le=1)]
    """share of the commonest class in the test set"""
    image_shape: list[Count] | None = None
    """height, width, channels; as the next two not in stores of before"""
    mean: list[float] | None = None
    """of every channel, of pixels in [0, 1]: what images are normalised by"""
    std: list[float] | None = None
    evaluate_every: Count
    """epochs between test passes"""
    probes: list[str] = []
    """names of further evaluation sets"""
    source: _Source


class AnalysisDescription(_Shape):
    """stage.json of an analysis"""

    kind: str
    stages: list[Id]
    settings: dict[str, Any]


class _Listed(_Shape):
    bytes: Count
    sha256: Digest


class AnalysisDone(_Shape):
    """done.json of an analysis"""

    id: Id
    state: str
    provenance: dict[str, Plain]
    files: dict[FileName, _Listed]


class StageDone(AnalysisDone):
    """done.json of a stage"""

    stopped: bool
    epoch: Count
    result: dict[str, float | None]
    time_s: float
    built_on: dict[Id, Digest | None]
    """SHA-256 of the state.safetensors of every stage that the stage started from, by id; None if
    that ended without one"""


class _MemberKnobs(_Knobs):
    model_config = ConfigDict(extra="forbid")


class _Member(_Shape):
    stage: Id
    path: Annotated[list[_MemberKnobs], Field(min_length=1)] | None = None
    """knobs of the legs from the root; before there were chains: plr and lr"""


class PackRecord(_Shape):
    """packs/<pack>.json"""

    members: list[_Member]
    continued: Count
    epochs: Count = 0
    """of its stages; 0 where that was not recorded"""
    stop_at_chance: bool
    number: Count
    way: Literal["grouped", "streams"] = "grouped"
    """how its models train together"""
    elsewhere: list[Id] = []
    """members whose bits are those of another pack, which counts for them though it be older"""


Seconds = Annotated[float, Field(ge=0, lt=1e12)]
Text = InstanceOf[str]
"""any at all: pydantic's own has to be valid UTF-8, which commands and paths are not always"""


class _Report(_Shape):
    model_config = ConfigDict(extra="forbid")
    format: Literal[1]


class _PlannedStage(_Shape):
    kind: Kind | Literal["leg", "average"]
    plr: Positive
    flr: Positive | None
    k: Count | None
    seed: Count
    epochs: Count
    setup: Id


class _PlannedSweep(_Shape):
    model_config = ConfigDict(extra="forbid")
    command: Text
    folder: Text
    stages: dict[Id, _PlannedStage]
    accept_stopped: bool
    more: bool
    shard: Text | None = None


class Plan(_Report):
    """plan.json"""

    sweeps: list[_PlannedSweep]


class Progress(_Report):
    """progress.json"""

    command: Text
    pid: Count
    host: Text
    written: Seconds
    phase: Text
    counts: bool
    processes: Count
    more: bool
    left_s: Seconds | None
    packs: list[Text]


class Current(RootModel[dict[str, dict[str, list[Id]]]]):
    """current.json: ids of analyses by set-up and kind"""

    model_config = ConfigDict(strict=True)


class Written(_Shape):
    """.written.json: the files that a report wrote, and what its figures were drawn from"""

    files: dict[FileName, Digest]
    drawn_from: dict[FileName, Digest] = Field(default_factory=dict)


class Made(_Shape):
    """.made.json: what a report was made of, and the files that it has"""

    made_of: Digest
    files: dict[Annotated[str, Field(pattern=r"^(figures/)?\.?\w[\w.-]*$")], Digest]


class _LookedSummary(_Shape):
    state: str
    stopped: bool
    built_on: dict[Id, Digest | None]
    files: dict[FileName, _Listed]


class _LookedStage(_Shape):
    stamp: Digest
    summary: _LookedSummary


class Looked(_Shape):
    """.looked.json: what a look at the store found of its stages, and what it stands on"""

    program: Digest
    """whose checks they have passed"""
    stages: dict[Id, _LookedStage]


class Note(_Shape):
    """notes/<stage>-<digest>.json"""

    model_config = ConfigDict(extra="forbid")
    stage: Id
    text: Annotated[str, Field(min_length=1)]
    date: str


class Shapes(NamedTuple):
    """What lies in a folder of results, stages or analyses."""

    description: type[BaseModel]
    done: type[BaseModel]
    identity: Callable[[Mapping[str, Any]], str]


STAGES = Shapes(StageDescription, StageDone, stage_identity)
ANALYSES = Shapes(AnalysisDescription, AnalysisDone, digest)
