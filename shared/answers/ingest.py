"""The answers of ingest: the inbox, the outcome of an upload (a `Report`), and previews."""

from typing import Literal

from pydantic import AwareDatetime

from shared.answers import Reply
from shared.formats.report import Kind, Report
from shared.protocol.names import DesiredState, Level


class WaitingFile(Reply):
    """A file that has not been taken yet, and why. `size` is in bytes.

    For a folder, only `file` and `why` are set.
    """

    file: str
    level: Level | None = None
    lineage: str | None = None
    kind: Kind | None = None
    size: int | None = None
    why: str


class TakenFile(Reply):
    """A file that is being worked on. `why` says what it waits for, or is None."""

    name: str
    why: str | None


class RefusedFile(Reply):
    """A file that was refused, as its report says."""

    name: str
    why: str
    next_step: str
    lineage: str
    level: Level
    kind: Kind
    at: AwareDatetime


class InboxShown(Reply):
    """The inbox: files `waiting` to be taken, files being worked on, and refused files.

    `taken` are those being worked on. `refused` begins with the newest.
    """

    state: DesiredState
    waits_for: str | None
    waiting: list[WaitingFile]
    taken: list[TakenFile]
    refused: list[RefusedFile]


class Working(Reply):
    """An upload that is still being worked on. `why` says what it waits for, or is None."""

    taken: str
    outcome: Literal["working"] = "working"
    why: str | None


class UploadFailed(Reply):
    """The reason why there is no upload. `kind` is the name of the error."""

    error: str
    kind: str | None = None


class SampledRow(Reply):
    """A row as it would be stored: `row` of the dataset and `line` of the file, both from 1.

    `data` is its canonical line, or None if its `bytes` are too many to be sent.
    """

    row: int
    line: int
    bytes: int
    data: str | None = None


class Preview(Reply):
    """What would become of a file. Nothing of it was stored or queued.

    The `outcome` of `report` says what would happen, its `settings` those that were understood.
    `rows` are the first three, and others spread evenly over the file, 200 at most.
    """

    report: Report
    rows: list[SampledRow]
