"""The answers of evolution: curves, states, comparisons and histories of examples.

Shares and means are None where there is nothing to average. A loss is in nats per token, and None
where it was not a number.
"""

from typing import Literal

from shared.answers import Reply
from shared.protocol.events import SnapshotDecision
from shared.protocol.names import JobState, Split

State = Literal["new", "learning", "learned", "struggling", "not learned", "forgotten", "unstable"]
Change = Literal["better", "worse", "same"]


class About(Reply):
    """A dataset in one lineage. `name` is that of its file; the steps are those of the lineage."""

    dataset: str
    lineage: str
    name: str
    first_step: int
    last_step: int


# ---- datasets ------------------------------------------------------------------------------------


class WatchedJob(Reply):
    """A job that has snapshots. `job` is its full name, `shown` its name for people."""

    job: str
    shown: str
    run: int
    state: JobState | None
    version: int | None


class WatchedDataset(About):
    """A dataset that has snapshots. `probes` counts its watched examples by split."""

    snapshots: int
    probes: dict[Split, int]
    last_at: str
    jobs: list[WatchedJob]


class Datasets(Reply):
    """All datasets that have snapshots."""

    datasets: list[WatchedDataset]


# ---- curves --------------------------------------------------------------------------------------


class Means(Reply):
    """The means over the `count` examples of a split. `exact_match` is over those `answered`."""

    count: int
    not_a_number: int
    loss: float | None
    token_accuracy: float | None
    answered: int
    exact_match: float | None


class SplitCurve(Reply):
    """The means of a split at one snapshot.

    Its own fields are over what was measured there, and None if nothing was. `known` is over all
    examples so far, each with its last value.
    """

    count: int | None = None
    not_a_number: int | None = None
    loss: float | None = None
    token_accuracy: float | None = None
    answered: int | None = None
    exact_match: float | None = None
    known: Means


class CurvePoint(Reply):
    """One snapshot. `is_final`: it was taken at the last step of a job that is done."""

    global_step: int
    position: int
    segment: str
    fence: int
    job: str
    at: str
    is_final: bool
    job_tokens: int | None
    decision: SnapshotDecision | None
    splits: dict[Split, SplitCurve]


class Curves(About):
    """The snapshots of a dataset, by step."""

    snapshots: list[CurvePoint]


# ---- one step ------------------------------------------------------------------------------------


class ProbeName(Reply):
    """A watched example: row `row` (from 0) of a dataset, and what it asks and expects."""

    probe: str
    split: Split
    dataset: str
    row: int
    prompt: str
    expected: str


class MeasuredProbe(ProbeName):
    """An example as one snapshot measured it."""

    answer: str | None
    tokens: int | None
    loss: float | None
    token_accuracy: float | None
    first_mismatch: int | None
    exact_match: bool | None


class SnapshotShown(About):
    """All examples at one step."""

    global_step: int
    segment: str
    fence: int
    probes: list[MeasuredProbe]


# ---- states --------------------------------------------------------------------------------------


class LearningSpeed(Reply):
    """The speed of learning. A field is None if nothing was learned, or if it is not known."""

    steps_to_learned: int | float | None
    tokens_to_learned: int | float | None
    loss_fall_per_1000_tokens: float | None


class StateShown(Reply):
    """The state of an example, with the step and job of that state.

    `during` is the name of that job's file.
    """

    state: State
    step: int | None
    job: str | None
    during: str | None


class ProbeSummary(ProbeName, StateShown):
    """An example's number, state, and first and last loss.

    `asked` counts how often it was answered.
    """

    number: int
    loss_first: float | None
    loss_last: float | None
    is_right: bool
    asked: int
    speed: LearningSpeed


class SplitSummaryShown(Reply):
    """The first and last values of a split's examples, and how many are in each state."""

    count: int
    loss_first: float | None
    loss_last: float | None
    answered: int
    exact_match_first: float | None
    exact_match_last: float | None
    normalized_match_last: float | None
    similarity_last: float | None
    confidence_last: float | None
    states: dict[State, int]
    speed: LearningSpeed


class Summary(About):
    """A summary of what was learned from a dataset."""

    snapshots: int
    splits: dict[Split, SplitSummaryShown]
    probes: list[ProbeSummary]


# ---- many examples at once ----------------------------------------------------------------------


class ProbeColumns(About):
    """The `count` examples of a dataset in columns, in the order of the rows of its matrix.

    `rows_name` changes when these rows do. Texts are cut; a column that was not asked for is left
    out.
    """

    rows_name: str
    count: int
    probe: list[str] | None = None
    split: list[Split] | None = None
    row: list[int] | None = None
    prompt: list[str] | None = None
    expected: list[str] | None = None
    state: list[State] | None = None
    step: list[int | None] | None = None
    loss_first: list[float | None] | None = None
    loss_last: list[float | None] | None = None
    is_right: list[bool] | None = None


class KnownShare(Reply):
    """What was known of a file in the training of a version: over the `measured` examples of it."""

    measured: int
    right: float | None
    loss: float | None


class KnownFile(Reply):
    """A file, by name if that is known, and what was known of it after each version."""

    dataset: str
    name: str
    known: list[KnownShare]


class VersionAt(Reply):
    """A version, its step, and the name of the file whose job made it."""

    version: str
    global_step: int
    name: str


class Forgotten(Reply):
    """An example that was lost between two steps, and the files that were trained `during` them."""

    probe: str
    dataset: str
    prompt: str
    expected: str
    last_right: int
    first_wrong: int
    during: list[str]


class Forgetting(Reply):
    """The files of a lineage after each of the versions that training continues from."""

    lineage: str
    versions: list[VersionAt]
    files: list[KnownFile]
    forgotten: list[Forgotten]


# ---- one example ---------------------------------------------------------------------------------


class MeasuredOnce(Reply):
    """One measurement of an example. Fields about its answer are None if it was not asked."""

    loss: float | None
    token_accuracy: float | None
    answer: str | None
    is_cut: bool
    exact_match: bool | None
    normalized_match: bool | None
    similarity: float | None
    confidence: float | None
    is_right: bool


class PointShown(MeasuredOnce):
    """A measurement in an example's history.

    `name` is the file of the job that was being trained then.
    """

    global_step: int
    job: str
    split: Split
    first_mismatch: int | None
    is_final: bool
    fence: int
    segment: str
    at: str
    job_tokens: int | None
    name: str


class Piece(Reply):
    """A piece of the expected answer, and the probability that the model gives it."""

    piece: str
    probability: float


class ExampleHistory(StateShown):
    """The whole history of one example in a lineage."""

    probe: str
    lineage: str
    dataset: str
    row: int
    prompt: str
    expected: str
    speed: LearningSpeed
    points: list[PointShown]
    tokens: list[Piece]


# ---- comparison ----------------------------------------------------------------------------------


class ComparedPlace(Reply):
    """A step of a lineage that is compared. `measured` counts the examples measured there."""

    lineage: str
    global_step: int
    shown: str
    measured: int


class SplitChange(Reply):
    """The number of examples of a split that changed, and their means on both sides."""

    count: int
    better: int
    same: int
    worse: int
    loss_a: float | None
    loss_b: float | None
    is_right_a: float | None
    is_right_b: float | None


class ComparedExample(ProbeName):
    """An example on both sides. `file` is the name of its file, if it is known."""

    change: Change
    a: MeasuredOnce
    b: MeasuredOnce
    file: str | None


class Comparison(Reply):
    """A comparison of two places: what changed between them, the clearest change first."""

    a: ComparedPlace
    b: ComparedPlace
    splits: dict[Split, SplitChange]
    examples: list[ComparedExample]
