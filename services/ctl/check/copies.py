"""What must hold of versions and of all that is precious: every copy is read in full."""

from collections.abc import Iterator

from services.ctl.check.ledgers import Finding, World
from shared.errors import ObjectMissing, StoreUnavailable, UsageError
from shared.files import sha256_bytes
from shared.formats.version import (
    CommitRecord,
    Latest,
    are_one_commit,
    parse_sums,
    version_name,
    why_foreign,
)
from shared.ledger.lineage import Line
from shared.store import layout
from shared.store.place import PRECIOUS, ReadPlace, Version
from shared.store.s3 import Store

Commits = dict[str, bytes]


# ---- reading the three places ------------------------------------------------------------------


def read_hash(world: World, place: ReadPlace, key: str, version_id: str | None = None) -> str:
    """SHA-256 of an object now; each is read once. Raises ObjectMissing, StoreUnavailable."""
    known = world.hashes.get((place.name, key, version_id))
    if known is None:
        known, _ = place.read_hash(PRECIOUS, key, version_id)
        world.hashes[place.name, key, version_id] = known
    return known


def wrong(
    world: World, place: ReadPlace, key: str, sha256: str, version_id: str | None = None
) -> str | None:
    """Why this copy is not what it should be; None if it is."""
    try:
        found = read_hash(world, place, key, version_id)
    except ObjectMissing:
        return "is missing"
    except (StoreUnavailable, UsageError, OSError) as error:
        return f"cannot be read: {error}"
    return None if found == sha256 else f"SHA-256 is {found[:16]}…, expected {sha256[:16]}…"


def places(world: World) -> dict[str, ReadPlace]:
    """Return the places that can be reached from here, by name."""
    found = (world.store, world.backup, world.archive)
    return {place.name: place for place in found if place is not None}


def commits(place: ReadPlace) -> Commits:
    """The commit records of a place, by key."""
    return {
        key: place.read(PRECIOUS, key)
        for key in place.keys(PRECIOUS, layout.CATALOG)
        if layout.parse_commit(key)
    }


def parsed(found: Commits) -> dict[tuple[str, int], CommitRecord]:
    """Readable, not aborted ones by (lineage, version)."""
    records: dict[tuple[str, int], CommitRecord] = {}
    for data in found.values():
        try:
            record = CommitRecord.model_validate_json(data)
        except ValueError:
            continue
        if record.aborted is None:
            records[record.lineage, record.version] = record
    return records


# ---- 5, 6, 7, 8: versions ----------------------------------------------------------------------


def invariant_5(world: World) -> list[Finding]:
    """Each close that made a version has one number and one commit record, and no other has."""
    found = foreign_commits(world)
    records = parsed(commits(world.backup))
    for line in world.table.lines.values():
        for segment in line.segments.values():
            close = segment.closed
            if close is not None and close.outcome == "done" and close.version is None:
                where = f"jobs.line.{line.lineage} segment {segment.id}"
                found.append(Finding(5, where, "is done and has no version number"))
        for version, at in line.versions.items():
            record = records.get((line.lineage, version))
            key = layout.commit(line.lineage, version)
            if record is None and world.vault_busy:
                world.pending.append(f"5: {key} is not committed yet (vault: {world.vault_busy})")
            elif record is None:
                found.append(
                    Finding(5, f"backup: {key}", f"no commit record for the close at {at}")
                )
    return found


def foreign_commits(world: World) -> list[Finding]:
    """Return the commit records, in any place, that are of no close or of another one."""
    found = []
    for name, place in places(world).items():
        for (lineage, version), record in parsed(commits(place)).items():
            where = f"{name}: {layout.commit(lineage, version)}"
            line = world.table.lines.get(lineage)
            close = line.version_close(version) if line else None
            if line is None or close is None:
                found.append(Finding(5, where, "a commit record without a close"))
            elif (why := why_foreign(record, line.versions[version], close)) is not None:
                found.append(Finding(5, where, f"the commit of another close: {why}"))
    return found


def invariant_6(world: World) -> list[Finding]:
    """Every precious key has one content and no delete marker, and all copies are as committed."""
    found = [*many_contents(world, world.store), *many_contents(world, world.backup)]
    seen = set()
    for key, sha256, version_ids in committed_files(world):
        for name, place in places(world).items():
            what = wrong(world, place, key, sha256, version_ids.get(name))
            if what is not None:
                found.append(Finding(6, f"{name}: {key}", what))
        seen.add(key)
    for name, place in places(world).items():
        for key, sha256 in named_by_hash(place):
            if key not in seen and (what := wrong(world, place, key, sha256)) is not None:
                found.append(Finding(6, f"{name}: {key}", what))
    return found


def many_contents(world: World, store: Store) -> Iterator[Finding]:
    """Keys that were overwritten with other bytes, or deleted: a lock keeps bytes, not names."""
    grouped: dict[str, list[Version]] = {}
    for version in store.versions(PRECIOUS, ""):
        if not version.key.startswith(layout.PROBES) and not layout.parse_latest(version.key):
            grouped.setdefault(version.key, []).append(version)
    for key, versions in grouped.items():  # of one key the newest first
        where = f"{store.name}: {key}"
        if any(version.is_delete_marker for version in versions):
            yield Finding(6, where, "has a delete marker")
        kept = [version for version in versions if not version.is_delete_marker]
        others = {version.etag for version in kept} if len(kept) > 1 else set()
        if len(others) > 1 and differ(world, store, kept):
            what = f"was overwritten: {len(kept)} versions, of which the oldest is the truth"
            yield Finding(6, where, what)


def differ(world: World, store: Store, versions: list[Version]) -> bool:
    """Different etags may still be the same bytes, sent in other parts, or the same commit."""
    if layout.parse_commit(versions[0].key):
        return not are_one_commit(store.read(PRECIOUS, v.key, v.version_id) for v in versions)
    return len({read_hash(world, store, v.key, v.version_id) for v in versions}) > 1


def committed_files(world: World) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(key, SHA-256, VersionId by store) of all that commit records name, with what they need."""
    roots, datasets = set(), set()
    for record in parsed(commits(world.backup)).values():
        roots.add(record.base_root)
        datasets.add(record.dataset_sha256)
        for file in record.files:
            ids = {"store": file.store_version_id, "backup": file.backup_version_id}
            yield f"{record.prefix.rstrip('/')}/{file.path}", file.sha256, ids
    for sha256 in sorted(datasets):
        yield layout.dataset_data(sha256), sha256, {}
    for root in sorted(roots):
        yield layout.base_commit(root), root, {}


def named_by_hash(place: ReadPlace) -> Iterator[tuple[str, str]]:
    """(key, SHA-256) of every dataset, plan and file of a base, whether committed or not."""
    for key in place.keys(PRECIOUS, layout.DATASETS):
        file = layout.parse_dataset_file(key)
        if file and key == layout.dataset_data(file.dataset):
            yield key, file.dataset
    for key in place.keys(PRECIOUS, layout.PLANS):
        if plan := layout.parse_plan(key):
            yield key, plan
    for key in place.keys(PRECIOUS, layout.BASES):
        if root := layout.parse_base_commit(key):
            yield key, root
            yield from listed_in_base(place, root, key)


def listed_in_base(place: ReadPlace, root: str, key: str) -> Iterator[tuple[str, str]]:
    data = place.read(PRECIOUS, key)
    if sha256_bytes(data) == root:  # else the list itself is the finding
        for path, sha256 in parse_sums(data).items():
            yield layout.base_file(root, path), sha256


def invariant_7(world: World) -> list[Finding]:
    """The commit records of all copies say the same, once the vault is idle."""
    held = {name: commits(place) for name, place in places(world).items()}
    found = []
    for key in sorted(set().union(*held.values())):
        lacking = [name for name, records in held.items() if key not in records]
        if lacking and world.vault_busy:
            world.pending.append(f"7: {key} is on its way (vault: {world.vault_busy})")
        elif lacking:
            found.append(Finding(7, key, f"is not in {' and '.join(lacking)}"))
        if not are_one_commit(records[key] for records in held.values() if key in records):
            found.append(Finding(7, key, "differs between the copies"))
    return found


def invariant_8(world: World) -> list[Finding]:
    """`latest` is the head's version or an ancestor of it; its ledger sequence never fell."""
    found = []
    for line in world.table.lines.values():
        key = layout.latest(line.lineage)
        for name, place in places(world).items():
            history = latest_history(place, key)
            if history:
                where = f"{name}: {key}"
                found += [Finding(8, where, what) for what in latest_wrong(world, line, history)]
    return found


def latest_history(place: ReadPlace, key: str) -> list[Latest | None]:
    """All that `latest` ever was, oldest first; None for what cannot be read."""
    versions = [v for v in place.versions(PRECIOUS, key) if v.key == key]
    data = [
        b"" if v.is_delete_marker else place.read(PRECIOUS, key, v.version_id)
        for v in reversed(versions)
    ]
    found: list[Latest | None] = []
    for each in data:
        try:
            found.append(Latest.model_validate_json(each))
        except ValueError:
            found.append(None)
    return found


def latest_wrong(world: World, line: Line, history: list[Latest | None]) -> Iterator[str]:
    latest = history[-1]
    if latest is None:
        yield "cannot be read"
        return
    readable = [each.ledger_sequence for each in history if each is not None]
    if readable != sorted(readable):
        yield f"its ledger sequence fell: {readable}"
    if latest.ledger_sequence > line.sequence:
        yield f"names ledger sequence {latest.ledger_sequence}, which does not exist"
    if line.versions.get(latest.version) not in line.ancestry():
        if world.vault_busy:
            world.pending.append(f"8: latest of {line.lineage} is about to move")
        else:
            yield f"is {version_name(latest.version)}, which is not in the head's ancestry"
