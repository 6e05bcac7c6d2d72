"""The catalog: which place holds which commit record, and whether it is that of the close."""

from services.vault.copies import Copies, CopySource
from services.vault.edition import Edition, NotPublishable
from shared.errors import Location, NotFound, ObjectDamaged, ObjectMissing, StoreUnavailable
from shared.formats.canonical import canonical_json
from shared.formats.version import (
    CommitRecord,
    Manifest,
    check_bytes,
    is_commit_of,
    version_name,
    why_foreign,
)
from shared.progress import beat
from shared.protocol.records import LineClose
from shared.store import layout
from shared.store.place import PRECIOUS, Place


def encode(record: CommitRecord) -> bytes:
    return canonical_json(record.model_dump(mode="json")) + b"\n"


def own_commit(copies: Copies, version: Edition, data: bytes) -> CommitRecord:
    """Parse the commit record that backup holds, and return it if it is that of this close.

    A place that outlived its bus holds versions under numbers that the new ledger gives again.
    Raises NotPublishable for a record that cannot be read or is that of another close; raises
    ObjectMissing or ObjectDamaged if no place has its manifest whole.
    """
    try:
        commit = CommitRecord.model_validate_json(data)
        why = why_foreign(commit, version.sequence, version.close)
        if why is None and commit.aborted is None:
            why = why_foreign_manifest(read_manifest(copies, commit), version)
    except ValueError:
        raise NotPublishable(
            f"backup: {version.commit_key} or its manifest cannot be parsed as a commit record, "
            "so nothing is written.",
            next_step="duramen check",
        ) from None
    if why is not None:
        raise NotPublishable(
            f"backup: {version.commit_key} is the commit of another close: {why}. The bus or the "
            "backup was replaced by another one; nothing is written, and nothing is deleted.",
            next_step="duramen check",
        )
    return commit


def read_manifest(copies: Copies, commit: CommitRecord) -> Manifest:
    """Return the MANIFEST.json that the commit names, from any place that has it whole.

    Raises ObjectMissing, ObjectDamaged, and ValueError for what is not a manifest.
    """
    sources = copies.precious(f"{commit.prefix}MANIFEST.json")
    return Manifest.model_validate_json(read_any(sources, commit.manifest_sha256))


def why_foreign_manifest(found: Manifest, version: Edition) -> str | None:
    """Return why a manifest does not describe what this close left, or None if it does."""
    close = version.close
    expected = {
        "lineage": version.lineage,
        "version": version.version,
        "ledger_sequence": version.sequence,
        "job": close.job,
        "base_root": close.head.base_root,
        "checkpoint_id": close.head.checkpoint.id if close.head.checkpoint else None,
        "global_step": close.head.global_step,
        "closed_at": close.at,
    }
    for name, value in expected.items():
        if (said := getattr(found, name)) != value:
            return f"its manifest says {name} {said}, the close {value}"
    return None


def read_any(origins: list[CopySource], sha256: str) -> bytes:
    """Return a small object from the first origin that has it whole. Raises the first failure."""
    failure: Exception | None = None
    for origin in origins:
        try:
            data = origin.place.read(origin.bucket, origin.key)
            return check_bytes(Location(origin.place.name, "", origin.key), data, sha256)
        except (ObjectMissing, ObjectDamaged) as error:
            failure = failure or error
    assert failure is not None
    raise failure


def read_commit_anywhere(
    copies: Copies, lineage: str, version: int, wanted: Edition | None = None
) -> CommitRecord:
    """Return the commit of a version from the first of backup, store and archive that has it.

    With `wanted`, only the commit of its close counts. Raises NotFound, StoreUnavailable.
    """
    key = layout.commit(lineage, version)
    away: StoreUnavailable | None = None
    for place in copies.places:
        try:
            commit = CommitRecord.model_validate_json(place.read(PRECIOUS, key))
        except StoreUnavailable as error:
            away = away or error
            continue
        except (ObjectMissing, ValueError):
            continue
        if wanted is None or why_foreign(commit, wanted.sequence, wanted.close) is None:
            return commit
    if away is not None:
        raise away
    raise NotFound(
        f"{version_name(version)} of {lineage} is not published.",
        next_step="duramen versions list",
    )


def settled(copies: Copies, lineage: str, closes: dict[int, tuple[int, LineClose]]) -> set[int]:
    """Return the versions whose commit all three places hold.

    `closes` holds the ledger sequence and the close of each version; only the commit of that close
    counts. Raises StoreUnavailable, ObjectMissing.
    """

    def held(place: Place) -> set[int]:
        names, found = committed_in(place, lineage), set()
        for version, (sequence, close) in closes.items():
            if version_name(version) in names:
                beat()
                data = place.read(PRECIOUS, layout.commit(lineage, version))
                found |= {version} if is_commit_of(data, sequence, close) else set()
        return found

    return set.intersection(*copies.everywhere(held).values())


def committed(copies: Copies, lineage: str) -> dict[str, set[str]]:
    """Return, by place, the names such as v007 that have a commit record."""
    return copies.everywhere(lambda place: committed_in(place, lineage))


def committed_in(place: Place, lineage: str) -> set[str]:
    """Return the names of the versions that one place has a commit record of."""
    keys = set(place.keys(PRECIOUS, layout.commit_records(lineage)))
    versions = {commit.version for commit in map(layout.parse_commit, keys) if commit}
    return {version_name(v) for v in versions if layout.commit(lineage, v) in keys}
