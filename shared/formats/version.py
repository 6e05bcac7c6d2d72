"""Canonical JSON, SHA256SUMS and MANIFEST.json: what a version says of its own bytes."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from pydantic import AwareDatetime

from shared.errors import Location, ObjectDamaged, UsageError
from shared.files import sha256_bytes
from shared.formats.canonical import canonical_json
from shared.formats.checkpoint import HEADER, IN_A_VERSION
from shared.protocol.message import Message
from shared.protocol.names import JobId, Sha256
from shared.protocol.records import LineClose


class FileEntry(Message):
    """One file of a version, by its path inside it. `size` in bytes."""

    path: str
    sha256: Sha256
    size: int


class SegmentEntry(Message):
    """One segment behind a version: replaying all of them gives the same bytes."""

    segment: str
    job: str
    plan: Sha256 | None
    from_step: int
    to_step: int
    from_position: int
    to_position: int
    micro_tokens: int
    outcome: str


class Manifest(Message):
    """MANIFEST.json: a pure function of the ledger record that gave the version its number."""

    format_version: int = 1
    lineage: str
    version: int
    ledger_sequence: int
    job: str
    dataset_sha256: Sha256
    plan_sha256: Sha256 | None
    base_root: Sha256
    checkpoint_id: Sha256
    global_step: int
    closed_at: AwareDatetime
    segments: list[SegmentEntry]
    files: list[FileEntry]

    def canonical(self) -> bytes:
        return canonical_json(self.model_dump(mode="json")) + b"\n"


class StoredFile(Message):
    """Where one file of a version lies: the VersionId that each locked store gave it."""

    path: str
    sha256: Sha256
    size: int
    store_version_id: str
    backup_version_id: str


class CommitRecord(Message):
    """catalog/<lineage>/vNNN.json: its existence is the commit, `aborted` is why not."""

    format_version: int = 1
    lineage: str
    version: int
    ledger_sequence: int
    aborted: str | None = None
    prefix: str
    manifest_sha256: Sha256
    base_root: Sha256
    dataset_sha256: Sha256
    files: list[StoredFile]
    verified_copies: int

    def is_same_commit(self, other: "CommitRecord") -> bool:
        """Whether both commit the same bytes. VersionIds may differ: what a killed vault had sent
        may arrive after the next one has sent it again, and is then the older version."""
        return self._without_ids() == other._without_ids()

    def _without_ids(self) -> "CommitRecord":
        blank = {"store_version_id": "", "backup_version_id": ""}
        return self.model_copy(update={"files": [f.model_copy(update=blank) for f in self.files]})


def are_one_commit(records: Iterable[bytes]) -> bool:
    """Whether all of these are records of the same commit; what cannot be read is none."""
    distinct = sorted(set(records))
    if len(distinct) == 1:
        return True
    try:
        first, *others = map(CommitRecord.model_validate_json, distinct)
    except ValueError:
        return False
    return all(first.is_same_commit(other) for other in others)


def why_foreign(commit: CommitRecord, sequence: int, close: LineClose) -> str | None:
    """Return why a commit record is not that of a close at a ledger sequence, or None if it is.

    The sequence alone may coincide where a bus was lost and began anew.
    """
    expected = {
        "lineage": close.lineage,
        "version": close.version,
        "ledger_sequence": sequence,
        "dataset_sha256": JobId.parse(close.job).sha256,
        "base_root": close.head.base_root,
    }
    for name, value in expected.items():
        if (found := getattr(commit, name)) != value:
            return f"{name} is {found}, that of the close is {value}"
    if commit.aborted is not None:
        return None
    meant = close.head.checkpoint.id if close.head.checkpoint else None
    held = next((file.sha256 for file in commit.files if file.path == IN_A_VERSION[HEADER]), None)
    return None if held == meant else f"its checkpoint is {held}, that of the close is {meant}"


def is_commit_of(data: bytes, sequence: int, close: LineClose) -> bool:
    """Return whether these bytes are the commit record of a close; damaged ones are not."""
    try:
        commit = CommitRecord.model_validate_json(data)
    except ValueError:
        return False
    return why_foreign(commit, sequence, close) is None


class Latest(Message):
    """catalog/<lineage>/latest.json: a lower ledger sequence never replaces a higher one."""

    format_version: int = 1
    lineage: str
    version: int
    ledger_sequence: int


def version_name(version: int) -> str:
    """v001, v002, …, v999, v1000."""
    return f"v{version:03d}"


def safe_path(text: str) -> str:
    """A relative POSIX path without `..`, an absolute root or odd characters. Raises UsageError."""
    path = PurePosixPath(text)
    odd = path.is_absolute() or ".." in path.parts or not path.parts
    if odd or not re.fullmatch(r"[A-Za-z0-9._/-]+", text):
        raise UsageError(f"{text!r} is not a path that a version may contain, so it is refused.")
    return str(path)


def sums(files: Iterable[tuple[str, str]]) -> bytes:
    """SHA256SUMS as coreutils writes it, sorted by path, of (path, sha256)."""
    return "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(files)).encode()


def parse_sums(data: bytes) -> dict[str, str]:
    """path -> sha256. Raises ValueError on any other line, UsageError on an unsafe path."""
    found: dict[str, str] = {}
    for line in data.decode().splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if match is None:
            raise ValueError(f"not a line of SHA256SUMS: {line[:80]!r}")
        found[safe_path(match[2])] = match[1]
    return found


# What a base may hold: weights that cannot run code, and text. Nothing pickled, no program.
BASE_SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".md", ".model"}
BASE_NAMES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")


def check_base_file(path: str) -> str:
    """The path, if a base may hold a file of that name. Raises UsageError."""
    name = PurePosixPath(safe_path(path))
    if name.suffix not in BASE_SUFFIXES and not name.name.startswith(BASE_NAMES):
        raise UsageError(
            f"{path} is refused: a base holds safetensors, JSON, tokenizer, template and licence "
            "files; nothing pickled, no code.",
            next_step="copy the model to a folder without it",
        )
    return path


def root_hash(files: Iterable[tuple[str, str]]) -> str:
    """The root hash of a base: SHA-256 of the SHA256SUMS of its files."""
    return sha256_bytes(sums(files))


def check_bytes(where: Location, data: bytes, expected: str) -> bytes:
    """The data, if it hashes to `expected`. Raises ObjectDamaged."""
    found = sha256_bytes(data)
    if found != expected:
        raise ObjectDamaged(where, expected, found)
    return data
