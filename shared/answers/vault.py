"""What the vault answers: versions with their copies, bases, alarms."""

from typing import Literal

from shared.answers import Reply
from shared.formats.version import CommitRecord
from shared.protocol.names import Outcome


class VersionFacts(Reply):
    """What the ledger says of a version. `steps`: those of its own job; `reason`: why it is not
    published yet, or None."""

    lineage: str
    version: int
    name: str
    job: str
    dataset: str
    file: str
    outcome: Outcome
    steps: int
    global_step: int
    base_root: str
    ledger_sequence: int
    closed_at: str
    in_ancestry: bool
    reason: str | None


class VersionRow(VersionFacts):
    """A version with what its places say. `copies`: sound ones; `size` in bytes, None without a
    commit; `latest`: whether training goes on from it."""

    state: Literal["pending", "aborted", "published"]
    places: list[str]
    copies: int
    domains: int
    size: int | None
    published_at: str | None
    latest: bool


class CheckedCopy(Reply):
    """What a full read of one place found. `bytes` were read and hashed."""

    place: str
    ok: bool
    files: int
    bytes: int
    problems: list[str]


class VersionShown(VersionRow):
    """A version with its commit record, and what the last full read found."""

    commit: CommitRecord | None
    checked: list[CheckedCopy]


class Verified(Reply):
    """All copies of a version as they were read in full."""

    lineage: str
    version: int
    ok: bool
    copies: list[CheckedCopy]


class BaseRow(Reply):
    """A base that is committed, and the places that hold it."""

    base_root: str
    places: list[str]


class StandingAlarm(Reply):
    """Something that is wrong now."""

    what: str
    about: str
    detail: str
