"""The state of things: a lease says who is alive, an observation says what a service does."""

from typing import Literal

from pydantic import AwareDatetime, Field, field_validator

from shared.protocol.message import Message
from shared.protocol.names import SegmentId, new_nonce, now
from shared.protocol.records import CheckpointRef
from shared.service_names import Service

MOST_SHOWN = 20
ObservedState = Literal["starting", "idle", "waiting", "running", "paused", "stopped"]


class Lease(Message):
    """A sign of life: who is alive, and for which fence."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    owner: str
    host: str
    fence: int | None = None
    nonce: str = Field(default_factory=new_nonce)
    at: AwareDatetime = Field(default_factory=now)


class Progress(Message):
    """The progress of the running job. `eta_seconds` is an estimate from the last steps."""

    position: int
    steps: int
    global_step: int
    loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None


class InboxFile(Message):
    """A file or folder (its name ends in /) that waits in the inbox, by its path there, and why."""

    file: str
    why: str


class InboxWaits(Message):
    """What waits in the inbox: how much it is, and the first MOST_SHOWN of it."""

    count: int
    files: list[InboxFile] = Field(max_length=MOST_SHOWN)


class DiskSeen(Message):
    """The disk of one place, as its owner measured it.

    `free` and `total` are None where nobody can say: an S3 elsewhere has no free space to ask for.
    `reserve`: the bytes that stay free. `device` tells which places lie on one disk. `uses`: bytes
    by what takes them; `freeable`: those of them that are kept elsewhere, too. `full_seconds`:
    until it is full at the present rate, None if it does not fill or that is not known yet.
    """

    place: str
    folder: str = ""
    free: int | None = None
    total: int | None = None
    reserve: int = 0
    device: int | None = None
    uses: dict[str, int] = Field(default_factory=dict)
    freeable: dict[str, int] = Field(default_factory=dict)
    full_seconds: float | None = None


UNSEEN = "*"
EXPORT_PLACE = "export"


class Observed(Message):
    """The state of an instance of a service. A receipt counts only if its fence is the ledger's.

    `instance`: a trainer's lease id, else the service's name. `waiting`: lineage -> why it waits;
    `*` stands for all of them. Schema 1, on one subject for all instances, had a text instead.
    `orphaned`, of a vault: lineages whose ledger has no versions, with the places that have some;
    under UNSEEN the places that it has not been able to look at since it started; with
    EXPORT_PLACE, lineages of a bus that lacks exported records. `inbox`, of ingest: what waits
    there, None if nothing does. `disks`: the places that it measures.
    """

    schema_: Literal[1, 2] = Field(default=2, alias="schema")
    service: Service
    instance: str
    state: ObservedState
    generation: int = 0
    once_through: int = 0
    waiting: dict[str, str] = Field(default_factory=dict)
    lineage: str | None = None
    job: str | None = None
    segment: SegmentId | None = None
    fence: int | None = None
    ledger: int = 0
    progress: Progress | None = None
    checkpoint: CheckpointRef | None = None
    read_back: bool = False
    orphaned: dict[str, list[str]] | None = None
    inbox: InboxWaits | None = None
    disks: list[DiskSeen] | None = None
    at: AwareDatetime = Field(default_factory=now)

    @field_validator("waiting", mode="before")
    @classmethod
    def _of_schema_1(cls, said: object) -> object:
        return {"*": said} if isinstance(said, str) else said

    @property
    def waits_for(self) -> str | None:
        """The reasons in `waiting`, as people read them, or None."""
        parts = [why if at == "*" else f"{at}: {why}" for at, why in self.waiting.items()]
        return "; ".join(parts) or None
