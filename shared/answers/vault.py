"""The answers of the vault: versions with their copies, bases, alarms."""

from typing import Literal

from shared.answers import Reply
from shared.formats.version import CommitRecord
from shared.protocol.names import Outcome


class VersionFacts(Reply):
    """A version as the ledger describes it.

    `steps` are those of its own job. `reason` says why it is not published yet, or is None.
    """

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
    """A version, together with what its places hold.

    `copies` counts the sound ones. `size` is in bytes, None without a commit. `latest`: training
    continues from it.
    """

    state: Literal["pending", "aborted", "published"]
    places: list[str]
    copies: int
    domains: int
    size: int | None
    published_at: str | None
    latest: bool


class CheckedCopy(Reply):
    """The result of reading one place in full. `bytes` counts what was read and hashed."""

    place: str
    ok: bool
    files: int
    bytes: int
    problems: list[str]


class VersionShown(VersionRow):
    """A version with its commit record, and the results of the last full read."""

    commit: CommitRecord | None
    checked: list[CheckedCopy]


class Verified(Reply):
    """The result of reading all copies of a version in full."""

    lineage: str
    version: int
    ok: bool
    copies: list[CheckedCopy]


class BaseRow(Reply):
    """A base that is committed, and the places that hold it."""

    base_root: str
    places: list[str]


class StandingAlarm(Reply):
    """An alarm about something that is wrong now."""

    what: str
    about: str
    detail: str
