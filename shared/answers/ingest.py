"""What ingest answers: the inbox as it is, and what became of an upload (a `Report`)."""

from typing import Literal

from pydantic import AwareDatetime

from shared.answers import Reply
from shared.formats.report import Kind
from shared.protocol.names import DesiredState, Level


class WaitingFile(Reply):
    """A file that is not taken yet, and why. `size` in bytes; a folder has a name and a reason."""

    file: str
    level: Level | None = None
    lineage: str | None = None
    kind: Kind | None = None
    size: int | None = None
    why: str


class TakenFile(Reply):
    """A file that is worked on. `why`: what it waits for, or None."""

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
    """`waiting`: not taken yet; `taken`: being worked on; `refused`: the newest first."""

    state: DesiredState
    waits_for: str | None
    waiting: list[WaitingFile]
    taken: list[TakenFile]
    refused: list[RefusedFile]


class Working(Reply):
    """An upload that is still worked on. `why`: what it waits for, or None."""

    taken: str
    outcome: Literal["working"] = "working"
    why: str | None


class UploadFailed(Reply):
    """Why an upload is not there. `kind`: the name of the error."""

    error: str
    kind: str | None = None
