"""The running system as the checks read it, and what each of them may find."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from services.ctl.views.columns import span_of
from services.ctl.views.silence import age_of, is_stale
from shared.errors import ObjectMissing, StoreUnavailable, UsageError
from shared.formats.plan import Plan
from shared.formats.version import CommitRecord
from shared.ledger.control import Control
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line, Segment
from shared.protocol.events import Answered
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId
from shared.protocol.observed import Observed
from shared.service_names import Service
from shared.store import layout
from shared.store.place import PRECIOUS, ReadPlace
from shared.store.s3 import Store

AnswerKind = TypeVar("AnswerKind")
Commits = dict[str, bytes]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: where (a run, a key or a file), and what."""

    where: str
    what: str


class NotChecked(Exception):
    """A check cannot look at all that it must; the message says why. `is_outage`: it can later.

    `findings` holds what it found in the rest.
    """

    def __init__(
        self, why: str, *, is_outage: bool = False, findings: Sequence[Finding] = ()
    ) -> None:
        super().__init__(why)
        self.is_outage, self.findings = is_outage, list(findings)


class Ask(Protocol):
    """A function that asks the evolution service: it returns the answer at a path, as `kind`."""

    def __call__(self, kind: type[AnswerKind], path: str) -> AnswerKind: ...


@dataclass
class World:
    """The running system: streams that were folded, and stores and folders to be read."""

    table: Table
    controls: dict[str, Control]
    answers: list[tuple[Service, Answered]]  # service, what it answered
    observed: dict[str, list[tuple[int, Observed]]]
    store: Store
    backup: Store
    archive: ReadPlace | None = None
    inbox: Path | None = None
    evolution: Ask | None = None
    answers_since: datetime | None = None  # answers from before it may have left the bus
    pending: list[str] = field(default_factory=list)
    copying: list[str] = field(default_factory=list)  # copies that the vault is making now
    hashes: dict[tuple[str, str, str | None], str] = field(default_factory=dict)
    plans: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)

    def latest(self, service: str) -> Observed | None:
        seen = self.observed.get(service)
        return seen[-1][1] if seen else None

    @property
    def vault_works(self) -> str | None:
        """The work that the vault is at now; None if it rests, waits or has been silent.

        A vault that waits may wait for ever, so that is no excuse for a copy that is missing.
        """
        said = self.latest("vault")
        if said is None or said.state != "running" or is_stale(said):
            return None
        return said.waits_for or said.state

    @property
    def vault_says(self) -> str:
        """A sentence with the reason for which the vault waits, to end a finding; empty if none."""
        said = self.latest("vault")
        if said is None:
            return ". The vault has never reported anything"
        silent = (
            f". The vault has been silent for {span_of(age_of(said))}" if is_stale(said) else ""
        )
        return silent or (f". The vault waits: {said.waits_for}" if said.waits_for else "")

    def plan_steps(self, ref: ObjectRef) -> list[tuple[int, ...]]:
        """Return the rows of each step of a plan.

        Raises ObjectMissing, ObjectDamaged, StoreUnavailable, ValueError.
        """
        if ref.sha256 not in self.plans:
            data = self.store.read(ref.bucket, ref.key, sha256=ref.sha256)
            self.plans[ref.sha256] = Plan.from_bytes(data).steps
        return self.plans[ref.sha256]


def subject(line: Line, segment: Segment | None = None) -> str:
    """Return what a finding calls a lineage, or a run in it, by the id of its segment."""
    return f"lineage {line.lineage}" + (f", run {segment.id}" if segment else "")


def mark_of(segment: Segment, line: Line) -> int:
    """Return the mark at which the head stands after this segment.

    It is that of the segment's close if that moved the head, else that of its parent.
    """
    return segment.closed_at if segment.closed_at in line.heads else segment.parent


def closed(world: World, job: JobId) -> list[Segment]:
    """Return the closed segments of a job, in the order of their closes."""
    return [segment for segment in world.table.segments_of(job) if segment.closed]


def read_hash(world: World, place: ReadPlace, key: str, version_id: str | None = None) -> str:
    """Return the SHA-256 of an object now; each is read only once.

    Raises ObjectMissing, StoreUnavailable.
    """
    known = world.hashes.get((place.name, key, version_id))
    if known is None:
        known, _ = place.read_hash(PRECIOUS, key, version_id)
        world.hashes[place.name, key, version_id] = known
    return known


def wrong(
    world: World, place: ReadPlace, key: str, sha256: str, version_id: str | None = None
) -> str | None:
    """Return why this copy is not what it should be; None if it is."""
    try:
        found = read_hash(world, place, key, version_id)
    except ObjectMissing:
        return "is missing"
    except (StoreUnavailable, UsageError, OSError) as error:
        return f"cannot be read: {error}"
    return None if found == sha256 else f"its SHA-256 is {found[:16]}…, expected {sha256[:16]}…"


def places(world: World) -> dict[str, ReadPlace]:
    """Return the places that can be reached from here, by name."""
    found = (world.store, world.backup, world.archive)
    return {place.name: place for place in found if place is not None}


def commits(place: ReadPlace) -> Commits:
    """Return the commit records of a place, by key."""
    return {
        key: place.read(PRECIOUS, key)
        for key in place.keys(PRECIOUS, layout.CATALOG)
        if layout.parse_commit(key)
    }


def parsed(found: Commits) -> dict[tuple[str, int], CommitRecord]:
    """Return the readable records that are not aborted, by (lineage, version)."""
    records: dict[tuple[str, int], CommitRecord] = {}
    for data in found.values():
        try:
            record = CommitRecord.model_validate_json(data)
        except ValueError:
            continue
        if record.aborted is None:
            records[record.lineage, record.version] = record
    return records


def committed_records(world: World) -> dict[tuple[str, int], CommitRecord]:
    """Return the readable records of all places that are not aborted, by (lineage, version).

    A place that has lost its own must not hide a version that the others still hold. Where they
    differ, that of backup counts, in which each was written first.
    """
    records: dict[tuple[str, int], CommitRecord] = {}
    for place in (world.archive, world.store, world.backup):
        if place is not None:
            records |= parsed(commits(place))
    return records
