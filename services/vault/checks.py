"""Reading copies again: what is shown as verified has just been read in full."""

from dataclasses import dataclass, field

from prometheus_client import Counter

from services.vault.copies import Copies
from shared.answers.vault import CheckedCopy
from shared.errors import DuramenError, ObjectMissing
from shared.formats.version import CommitRecord, are_one_commit, parse_sums
from shared.store import layout
from shared.store.place import PRECIOUS, Place, Version
from shared.store.s3 import Store

FAILURES = Counter(
    "duramen_vault_verify_failures_total", "Objects found missing or damaged.", ["place"]
)
for each in ("store", "backup", "archive"):
    FAILURES.labels(each)  # from the start: a series that begins at 1 never increased


@dataclass
class CopyFound:
    """The result of reading one place's copy of a version."""

    place: str
    files: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def told(self) -> CheckedCopy:
        """The result in the form that the API returns."""
        return CheckedCopy(
            place=self.place,
            ok=self.ok,
            files=self.files,
            bytes=self.bytes,
            problems=self.problems,
        )


def verify_version(
    copies: Copies, commit: CommitRecord, encoded: bytes, *, with_base: bool = False
) -> list[CopyFound]:
    """Read every file of a version in every place, by VersionId, and return what was found.

    A bad copy is never raised but named in `problems`. The base is read only with `with_base`.
    """

    def look(place: Place) -> CopyFound:
        found = CopyFound(place.name)
        key = layout.commit(commit.lineage, commit.version)
        check_record(place, key, encoded, found)
        for file in commit.files:
            version_id = {"store": file.store_version_id, "backup": file.backup_version_id}
            check_version(
                place, commit.prefix + file.path, file.sha256, found, version_id.get(place.name)
            )
        rows = layout.dataset_data(commit.dataset_sha256)
        check_version(place, rows, commit.dataset_sha256, found)
        if with_base:
            check_base_copies(place, commit.base_root, found)
        FAILURES.labels(place.name).inc(len(found.problems))
        return found

    by_place = copies.everywhere(look)
    return [by_place[name] for name in ("store", "backup", "archive")]


def check_version(
    place: Place, key: str, sha256: str, found: CopyFound, version_id: str | None = None
) -> None:
    try:
        digest, size = place.read_hash(PRECIOUS, key, version_id or None)
    except ObjectMissing:
        found.problems.append(f"{key}: missing")
    except DuramenError as error:
        found.problems.append(f"{key}: {error}")
    else:
        if digest != sha256:
            found.problems.append(f"{key}: SHA-256 is {digest[:16]}…, expected {sha256[:16]}…")
            return
        found.files, found.bytes = found.files + 1, found.bytes + size


def check_record(place: Place, key: str, encoded: bytes, found: CopyFound) -> None:
    try:
        if not are_one_commit([place.read(PRECIOUS, key), encoded]):
            found.problems.append(f"{key}: another record than in the other places")
    except DuramenError as error:
        found.problems.append(f"{key}: {error}")


def check_base_copies(place: Place, root: str, found: CopyFound) -> None:
    key = layout.base_commit(root)
    try:
        files = parse_sums(place.read(PRECIOUS, key, sha256=root))
    except (DuramenError, ValueError) as error:
        found.problems.append(f"{key}: {error}")
        return
    for path, sha256 in files.items():
        check_version(place, layout.base_file(root, path), sha256, found)


def shadowed(store: Store, prefix: str = "") -> dict[str, str]:
    """Return the keys of `duramen` whose oldest version is hidden, and what hides each.

    The lock keeps bytes, not names. A second version with the same bytes or the same commit is
    harmless, as two vaults leave it, and is not returned.
    """
    by_key: dict[str, list[Version]] = {}
    for version in store.versions(PRECIOUS, prefix):
        by_key.setdefault(version.key, []).append(version)
    found = {}
    for key, versions in by_key.items():
        if key.endswith("/latest.json") or key.startswith("."):
            continue  # replaced by design; what the bootstrap's probe left
        if any(version.is_delete_marker for version in versions):
            found[key] = "a delete marker"
        elif len(versions) > 1 and versions_differ(store, key, versions):
            found[key] = "another version with other bytes"
    return found


def versions_differ(store: Store, key: str, versions: list[Version]) -> bool:
    """Return whether the versions of a key differ in their bytes, or as commits."""
    if layout.parse_commit(key):
        return not are_one_commit(store.read(PRECIOUS, key, v.version_id) for v in versions)
    return len({store.read_hash(PRECIOUS, key, v.version_id)[0] for v in versions}) > 1
