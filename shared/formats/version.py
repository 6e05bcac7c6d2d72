"""The files that describe a version or a base: MANIFEST.json, SHA256SUMS, commit records."""

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
    """One file of a version, by its path inside it. `size` is in bytes."""

    path: str
    sha256: Sha256
    size: int


class SegmentEntry(Message):
    """One segment behind a version; replaying all of them gives the same bytes."""

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
    """The file MANIFEST.json: a pure function of the ledger record that numbered the version."""

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
    """The location of one file of a version: the VersionId that each locked store gave it."""

    path: str
    sha256: Sha256
    size: int
    store_version_id: str
    backup_version_id: str


class CommitRecord(Message):
    """The file catalog/<lineage>/vNNN.json. Its existence is the commit.

    `aborted` is the reason why there is no version after all, or None.
    """

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
        """Return whether both commit the same bytes; their VersionIds may differ.

        What a killed vault had sent may arrive after the next vault has sent it again, and is then
        the older version.
        """
        return self._without_ids() == other._without_ids()

    def _without_ids(self) -> "CommitRecord":
        blank = {"store_version_id": "", "backup_version_id": ""}
        return self.model_copy(update={"files": [f.model_copy(update=blank) for f in self.files]})


def are_one_commit(records: Iterable[bytes]) -> bool:
    """Return whether all of these are records of the same commit.

    Equal bytes are; unequal ones only if each can be read.
    """
    distinct = sorted(set(records))
    if len(distinct) == 1:
        return True
    try:
        first, *others = map(CommitRecord.model_validate_json, distinct)
    except ValueError:
        return False
    return all(first.is_same_commit(other) for other in others)


def why_foreign(commit: CommitRecord, sequence: int, close: LineClose) -> str | None:
    """Return why a commit record is not that of a close at this sequence, or None if it is.

    The sequence alone may coincide where a bus was lost and began again.
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
    """Return whether these bytes are the commit record of a close; damaged bytes are not."""
    try:
        commit = CommitRecord.model_validate_json(data)
    except ValueError:
        return False
    return why_foreign(commit, sequence, close) is None


class Latest(Message):
    """The file catalog/<lineage>/latest.json; a lower sequence never replaces a higher one."""

    format_version: int = 1
    lineage: str
    version: int
    ledger_sequence: int


def version_name(version: int) -> str:
    """Return the name of a version: v001, v002, …, v999, v1000."""
    return f"v{version:03d}"


def safe_path(text: str) -> str:
    """Return the path if it is relative, without `..` and without odd characters.

    Raises UsageError for any other path.
    """
    path = PurePosixPath(text)
    odd = path.is_absolute() or ".." in path.parts or not path.parts
    if odd or not re.fullmatch(r"[A-Za-z0-9._/-]+", text):
        raise UsageError(f"{text!r} is not a path that a version may contain, so it is refused.")
    return str(path)


def sums(files: Iterable[tuple[str, str]]) -> bytes:
    """Return SHA256SUMS as coreutils writes it, sorted by path, for (path, sha256) pairs."""
    return "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(files)).encode()


def parse_sums(data: bytes) -> dict[str, str]:
    """Return path -> sha256 of a SHA256SUMS.

    Raises ValueError on any other line, UsageError on an unsafe path.
    """
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
    """Return the path, if a base may hold a file of that name. Raises UsageError."""
    name = PurePosixPath(safe_path(path))
    if name.suffix not in BASE_SUFFIXES and not name.name.startswith(BASE_NAMES):
        raise UsageError(
            f"{path} is refused: a base holds safetensors, JSON, tokenizer, template and licence "
            "files; nothing pickled, no code.",
            next_step="copy the model to a folder without it",
        )
    return path


def root_hash(files: Iterable[tuple[str, str]]) -> str:
    """Return the root hash of a base: the SHA-256 of the SHA256SUMS of its files."""
    return sha256_bytes(sums(files))


def check_bytes(where: Location, data: bytes, expected: str) -> bytes:
    """Return the data, if it hashes to `expected`. Raises ObjectDamaged."""
    found = sha256_bytes(data)
    if found != expected:
        raise ObjectDamaged(where, expected, found)
    return data
