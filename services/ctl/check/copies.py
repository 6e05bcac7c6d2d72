"""Checks of versions and of all that is precious: every copy is read in full."""

from collections.abc import Iterator

from services.ctl.check.world import (
    Finding,
    NotChecked,
    World,
    commits,
    committed_records,
    parsed,
    places,
    read_hash,
    wrong,
)
from services.ctl.views.columns import count_of
from shared.errors import StoreUnavailable
from shared.files import sha256_bytes
from shared.formats.version import (
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


def every_place_holds_something(world: World) -> list[Finding]:
    """Every place can be read, and none is empty while there are versions."""
    held, away = {}, [] if world.archive else ["the archive is not set on this machine"]
    for name, place in places(world).items():
        try:
            place.ping()
            held[name] = any(not k.startswith(layout.PROBES) for k in place.keys(PRECIOUS, ""))
        except StoreUnavailable as error:
            away.append(str(error))
    versions = sum(len(line.versions) for line in world.table.lines.values())
    expected = count_of(versions, "version") + " by the ledger"
    found = [
        Finding(name, f"it is empty, but should hold {expected}; its data were lost or moved")
        for name, holds in held.items()
        if not holds and (versions or any(held.values()))
    ]
    if away:
        raise NotChecked("; ".join(away), is_outage=True, findings=found)
    return found


def every_finished_job_has_one_version(world: World) -> list[Finding]:
    """Every job that is done has one version and one commit record, and nothing else has."""
    found = foreign_commits(world)
    records = committed_records(world)
    for line in world.table.lines.values():
        for segment in line.segments.values():
            close = segment.closed
            if close is not None and close.outcome == "done" and close.version is None:
                where = f"jobs.line.{line.lineage} segment {segment.id}"
                found.append(Finding(where, "it is done, but it has no version number"))
        for version, at in line.versions.items():
            record = records.get((line.lineage, version))
            key = layout.commit(line.lineage, version)
            if record is None and world.vault_works:
                world.copying.append(f"{key} is not committed yet: {world.vault_works}")
            elif record is None:
                what = "no place has the version of the run that ended at record "
                found.append(Finding(key, f"{what}{at}{world.vault_says}"))
    return found


def foreign_commits(world: World) -> list[Finding]:
    """Return findings for the commit records, in any place, of no close or of another one."""
    found = []
    for name, place in places(world).items():
        for (lineage, version), record in parsed(commits(place)).items():
            where = f"{name}: {layout.commit(lineage, version)}"
            line = world.table.lines.get(lineage)
            close = line.version_close(version) if line else None
            if line is None or close is None:
                found.append(
                    Finding(where, "it is the commit record of a run that is not in the ledger")
                )
            elif (why := why_foreign(record, line.versions[version], close)) is not None:
                found.append(Finding(where, f"it is the commit record of another run: {why}"))
    return found


def every_copy_is_as_committed(world: World) -> list[Finding]:
    """Every copy has the committed bytes, and nothing was overwritten or deleted."""
    found = [*many_contents(world, world.store), *many_contents(world, world.backup)]
    seen = set()
    for key, sha256, version_ids in committed_files(world):
        for name, place in places(world).items():
            what = wrong(world, place, key, sha256, version_ids.get(name))
            if what is not None:
                found.append(Finding(f"{name}: {key}", what))
        seen.add(key)
    for name, place in places(world).items():
        for key, sha256 in named_by_hash(place):
            if key not in seen and (what := wrong(world, place, key, sha256)) is not None:
                found.append(Finding(f"{name}: {key}", what))
    return found


def many_contents(world: World, store: Store) -> Iterator[Finding]:
    """Yield a finding for each key that was overwritten with other bytes, or deleted.

    Both can happen to a locked object, because a lock keeps bytes, not names.
    """
    grouped: dict[str, list[Version]] = {}
    for version in store.versions(PRECIOUS, ""):
        if not version.key.startswith(layout.PROBES) and not layout.parse_latest(version.key):
            grouped.setdefault(version.key, []).append(version)
    for key, versions in grouped.items():  # of one key the newest first
        where = f"{store.name}: {key}"
        if any(version.is_delete_marker for version in versions):
            yield Finding(where, "it has a delete marker")
        kept = [version for version in versions if not version.is_delete_marker]
        others = {version.etag for version in kept} if len(kept) > 1 else set()
        if len(others) > 1 and etags_differ(world, store, kept):
            what = f"it was overwritten: of its {len(kept)} versions, the oldest is the right one"
            yield Finding(where, what)


def etags_differ(world: World, store: Store, versions: list[Version]) -> bool:
    """Return whether versions differ in their bytes, or as commits.

    Different etags may still be the same bytes, sent in other parts, or the same commit.
    """
    if layout.parse_commit(versions[0].key):
        return not are_one_commit(store.read(PRECIOUS, v.key, v.version_id) for v in versions)
    return len({read_hash(world, store, v.key, v.version_id) for v in versions}) > 1


def committed_files(world: World) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield (key, SHA-256, VersionId by store) of all that commit records name and need."""
    roots, datasets = set(), set()
    for record in committed_records(world).values():
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
    """Yield (key, SHA-256) of every dataset, plan and file of a base, committed or not."""
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


def all_places_hold_the_same_commits(world: World) -> list[Finding]:
    """All places hold the same commit records."""
    held = {name: commits(place) for name, place in places(world).items()}
    found = []
    for key in sorted(set().union(*held.values())):
        lacking = [name for name, records in held.items() if key not in records]
        if lacking and world.vault_works and "backup" not in lacking:  # it is copied from there
            world.copying.append(f"{key} is still being copied: {world.vault_works}")
        elif lacking:
            what = f"it is not in {' and '.join(lacking)}{world.vault_says}"
            found.append(Finding(key, what))
        if not are_one_commit(records[key] for records in held.values() if key in records):
            found.append(Finding(key, "it differs between the copies"))
    return found


def latest_is_the_head_or_before_it(world: World) -> list[Finding]:
    """`latest` is the version of the head or one before it, and no older record replaced it."""
    found = []
    for line in world.table.lines.values():
        key = layout.latest(line.lineage)
        for name, place in places(world).items():
            history = latest_history(place, key)
            if history:
                where = f"{name}: {key}"
                found += [Finding(where, what) for what in latest_wrong(world, line, history)]
    return found


def latest_history(place: ReadPlace, key: str) -> list[Latest | None]:
    """Return all that `latest` ever was, oldest first; None for what cannot be read."""
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
        yield "it cannot be read"
        return
    readable = [each.ledger_sequence for each in history if each is not None]
    if readable != sorted(readable):
        yield f"an older record replaced it: {readable}"
    if latest.ledger_sequence > line.sequence:
        yield f"it names record {latest.ledger_sequence}, which does not exist"
    if line.versions.get(latest.version) not in line.ancestry():
        if world.vault_works:
            world.copying.append(f"`latest` of {line.lineage} is about to move")
        else:
            yield f"it is {version_name(latest.version)}, which training has not continued from"
