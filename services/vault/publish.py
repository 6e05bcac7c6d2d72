"""Publishing a version: all copies are written and read back, then one record commits it.

The record is created in backup first. The ledger alone drives a publish: the bytes of a version are
a pure function of the record that closed its segment. So a publish may be cut off anywhere,
repeated, or run by two vaults at once: it ends with the same bytes under the same names, and one
commit. A commit that backup already holds is rolled forward to the other places, if it is that of
this close.
"""

from contextlib import suppress

from services.vault import bases, readme, tokenizer
from services.vault.catalog import encode, own_commit, read_any
from services.vault.copies import Copies, Source
from services.vault.edition import Edition, NotPublishable
from shared.errors import (
    AlreadyExists,
    Location,
    ObjectDamaged,
    ObjectMissing,
)
from shared.formats.checkpoint import HEADER, IN_A_VERSION, listed_files
from shared.formats.result import JOB_LOG, METRICS, SegmentResult
from shared.formats.version import (
    CommitRecord,
    FileEntry,
    Manifest,
    StoredFile,
    are_one_commit,
    safe_path,
    sums,
)
from shared.protocol.records import CheckpointRef
from shared.store import layout
from shared.store.place import PRECIOUS, Place, Stored


def publish(copies: Copies, version: Edition, sound_bases: set[str]) -> CommitRecord:
    """Publish a version, or roll its commit forward; return the commit, which all places then hold.

    `sound_bases` holds the roots whose copies this process has read in full. It is changed: the
    root of this version's base is added once its copies were read. Any failure raises:
    StoreUnavailable, ObjectMissing, ObjectDamaged, AlreadyExists, NotPublishable, and UsageError
    for a base that is refused.
    """
    copies.ping()  # also refuses an archive other than the one used before: an empty mount point
    begun = backup_commit(copies, version.commit_key)
    if begun is not None:
        heal(copies, own_commit(copies, version, begun))
    else:
        refuse_lost_commit(copies, version)
        if version.close.head.base_root not in sound_bases:
            ensure_base(copies, version.close.head.base_root)
            sound_bases.add(version.close.head.base_root)
        ensure_inputs(copies, version)
        begun = encode(commit_record(version, ensure_files(copies, version)))
        try:
            copies.backup.create(PRECIOUS, version.commit_key, begun)
        except AlreadyExists:
            # Another vault was first: its record is the commit, and may name other VersionIds. So
            # it is read from backup, and all places get these bytes.
            begun = copies.backup.read(PRECIOUS, version.commit_key)
            # This is called only for its check, which raises if the record is of another close.
            # Its result is not healed, because the files were copied to all places just now.
            own_commit(copies, version, begun)
    for place in copies.places:
        roll_forward(place, version.commit_key, begun)
    return CommitRecord.model_validate_json(begun)


def roll_forward(place: Place, key: str, commit: bytes) -> None:
    """Create the commit in a place. Raises AlreadyExists if the place has another one."""
    try:
        place.create(PRECIOUS, key, commit)
    except AlreadyExists:
        # Records that differ only in VersionIds are one commit (docs/decisions/0004).
        if not are_one_commit([place.read(PRECIOUS, key), commit]):
            raise


def backup_commit(copies: Copies, key: str) -> bytes | None:
    """Return the commit record as backup has it, or None."""
    try:
        return copies.backup.read(PRECIOUS, key)
    except ObjectMissing:
        return None


def heal(copies: Copies, commit: CommitRecord) -> None:
    """Copy every file of a commit to all places, where each copy is read now.

    A place must hold every file before it is given the commit record.
    """
    if commit.aborted is not None:  # why this number has no version: its files do not count
        return
    ensure_base(copies, commit.base_root)
    for file in commit.files:
        key = commit.prefix + file.path
        copies.copy(key, Source(file.sha256, file.size, *copies.precious(key)))


def refuse_lost_commit(copies: Copies, version: Edition) -> None:
    """Refuse to publish a version whose commit is in another place, but not in backup.

    A commit is in backup before it is anywhere else, so backup has lost it. Raises NotPublishable.
    """
    for place in (copies.store, copies.archive):
        if version.commit_key in place.keys(PRECIOUS, version.commit_key):
            raise NotPublishable(
                f"{place.name} has the commit of {version.name}, backup has lost it; nothing is "
                "written until it is clear what happened to the backup.",
                next_step="duramen check",
            )


def ensure_base(copies: Copies, root: str) -> None:
    """Copy all of a base to all places, where each copy is read now.

    Raises NotPublishable if the base is not in the store.
    """
    try:
        bases.store_base(copies, root)
    except ObjectMissing as error:
        raise NotPublishable(
            f"Base {root[:12]} is not in the store.", next_step="duramen base add DIR"
        ) from error


def ensure_inputs(copies: Copies, version: Edition) -> None:
    """Copy dataset and plans to all places, so that the version can be made again from them.

    Raises ObjectMissing, ObjectDamaged.
    """
    rows = layout.dataset_data(version.job.sha256)
    keys = list(copies.store.keys(PRECIOUS, layout.dataset_files(version.job.sha256)))
    if rows not in keys:
        raise ObjectMissing("store", PRECIOUS, rows)
    for key in keys:
        found = copies.keep(key)["store"]
        if key == rows and found.sha256 != version.job.sha256:
            raise ObjectDamaged(Location("store", "", key), version.job.sha256, found.sha256)
    for plan in {entry.plan for entry in version.segments if entry.plan}:
        found = copies.keep(layout.plan(plan))["store"]
        if found.sha256 != plan:
            raise ObjectDamaged(Location("store", "", found.key), plan, found.sha256)


def ensure_files(copies: Copies, version: Edition) -> list[tuple[str, dict[str, Stored]]]:
    """Copy the files of a version, then those that describe them; return (path, copies), sorted."""
    checkpoint = version.close.head.checkpoint
    if checkpoint is None:
        raise NotPublishable(f"{version.name} has no checkpoint.")
    header = close_header(copies, version, checkpoint)
    sources = {
        **checkpoint_sources(copies, version, checkpoint, header),
        **result_sources(copies, version),
    }
    made = {IN_A_VERSION[HEADER]: header, "README.md": read_readme(copies, version, checkpoint)}
    if version.chat_template is not None:
        sources |= tokenizer.sources(copies, version.close.head.base_root)
        made[tokenizer.TEMPLATE] = version.chat_template.encode()
    stored = {path: copies.copy(version.prefix + path, s) for path, s in sources.items()}
    stored |= {path: copies.copy_bytes(version.prefix + path, b) for path, b in made.items()}
    # MANIFEST.json comes first, because SHA256SUMS lists every file but itself, MANIFEST.json too.
    manifest = describe_close(version, checkpoint, stored)
    stored["MANIFEST.json"] = copies.copy_bytes(
        version.prefix + "MANIFEST.json", manifest.canonical()
    )
    listed = sums((path, places["store"].sha256) for path, places in stored.items())
    stored["SHA256SUMS"] = copies.copy_bytes(version.prefix + "SHA256SUMS", listed)
    return sorted(stored.items())


def read_readme(copies: Copies, version: Edition, checkpoint: CheckpointRef) -> bytes:
    """Return README.md as an interrupted publish left it, or else make it now.

    A name is written only once: if the text had changed since, the version could never be
    published.
    """
    for origin in copies.precious(version.prefix + "README.md"):
        with suppress(ObjectMissing):
            return origin.place.read(origin.bucket, origin.key)
    return readme.render_readme(version, checkpoint)


def close_header(copies: Copies, version: Edition, checkpoint: CheckpointRef) -> bytes:
    """Return header.json of the close's checkpoint; its hash is the id of the checkpoint."""
    origins = [
        copies.work(layout.checkpoint_file(checkpoint.prefix, HEADER)),
        *copies.precious(version.prefix + IN_A_VERSION[HEADER]),
    ]
    return read_any(origins, checkpoint.id)


def checkpoint_sources(
    copies: Copies, version: Edition, checkpoint: CheckpointRef, header: bytes
) -> dict[str, Source]:
    """Return where each file of the checkpoint is copied from, by its path in the version."""
    files = listed_files(header)
    if set(files) != set(IN_A_VERSION) - {HEADER}:
        raise NotPublishable(f"{version.name}: its checkpoint holds {sorted(files)}.")
    return {
        IN_A_VERSION[name]: Source(
            file.sha256,
            file.size,
            copies.work(layout.checkpoint_file(checkpoint.prefix, name)),
            *copies.precious(version.prefix + IN_A_VERSION[name]),
        )
        for name, file in files.items()
    }


def result_sources(copies: Copies, version: Edition) -> dict[str, Source]:
    """Return where log, metrics and snapshots of the job are copied from, by path.

    They are the files that its result.json names. Raises NotPublishable if it cannot be read, or
    names any other file.
    """
    ref = version.close.result
    if ref is None:
        return {}
    try:
        result = SegmentResult.from_bytes(copies.store.read(ref.bucket, ref.key, sha256=ref.sha256))
    except ValueError as error:
        raise NotPublishable(f"{version.name}: {ref.key} cannot be read: {error}.") from error
    sources = {}
    for file in result.files:
        path = safe_path(file.path)
        if path not in (METRICS, JOB_LOG) and not file.is_snapshot:
            raise NotPublishable(f"{version.name}: {path} has no place in a version.")
        origins = [copies.work(file.key), *copies.precious(version.prefix + path)]
        sources[path] = Source(file.sha256, file.size, *origins)
    return sources


def describe_close(
    version: Edition, checkpoint: CheckpointRef, stored: dict[str, dict[str, Stored]]
) -> Manifest:
    close = version.close
    return Manifest(
        lineage=version.lineage,
        version=version.version,
        ledger_sequence=version.sequence,
        job=close.job,
        dataset_sha256=version.job.sha256,
        plan_sha256=close.plan.sha256 if close.plan else None,
        base_root=close.head.base_root,
        checkpoint_id=checkpoint.id,
        global_step=close.head.global_step,
        closed_at=close.at,
        segments=list(version.segments),
        files=[
            FileEntry(path=path, sha256=places["store"].sha256, size=places["store"].size)
            for path, places in sorted(stored.items())
        ],
    )


def commit_record(version: Edition, stored: list[tuple[str, dict[str, Stored]]]) -> CommitRecord:
    return CommitRecord(
        lineage=version.lineage,
        version=version.version,
        ledger_sequence=version.sequence,
        prefix=version.prefix,
        manifest_sha256=dict(stored)["MANIFEST.json"]["store"].sha256,
        base_root=version.close.head.base_root,
        dataset_sha256=version.job.sha256,
        files=[
            StoredFile(
                path=path,
                sha256=places["store"].sha256,
                size=places["store"].size,
                store_version_id=places["store"].version_id or "",
                backup_version_id=places["backup"].version_id or "",
            )
            for path, places in stored
        ],
        verified_copies=len(stored[0][1]),
    )
