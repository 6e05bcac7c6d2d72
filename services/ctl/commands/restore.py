"""duramen restore: copy a version into a folder of its own, whole, or end with an error."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from services.ctl import cli
from services.ctl.errors import OtherRecord, TargetNotEmpty
from services.ctl.views.columns import count_of
from services.ctl.views.naming import LATEST, parse_version
from shared.errors import (
    DuramenError,
    NotFound,
    ObjectDamaged,
    ObjectMissing,
    StoreUnavailable,
    UsageError,
)
from shared.files import sync_folder, write_synced
from shared.formats.version import (
    CommitRecord,
    Latest,
    parse_sums,
    safe_path,
    version_name,
)
from shared.protocol.message import ObjectRef
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store

LatestOr = Annotated[
    str | None, typer.Argument(help="A version, such as v003. Without it, the latest.")
]
R = TypeVar("R", bound=BaseModel)
ROLLBACK_TEXT = (
    "`restore` copies a version out of the store, into an empty folder of your choice: nothing in "
    "the system changes. To make training continue from that version and `latest` point to it, "
    "type `duramen rollback {name}`; later versions are kept."
)


def restore(
    version: LatestOr = None,
    to: Annotated[Path | None, typer.Option("--to", help="A new or empty folder.")] = None,
    with_base: Annotated[
        bool, typer.Option("--with-base", help="Also copy the base model, to DIR/base.")
    ] = False,
    source: Annotated[
        str, typer.Option("--from", help="The place to try first: store or backup.")
    ] = "store",
    lineage: cli.Lineage = "main",
    json: cli.Json = False,
) -> None:
    """Copy a version into a folder and verify every byte. It needs only a store, no service."""
    is_latest = version in (None, LATEST)
    name = None if version is None or is_latest else version_name(parse_version(version))
    if to is None:
        shown = name or "VERSION"
        text = ROLLBACK_TEXT.format(name=shown)
        raise UsageError(text, next_step=f"duramen restore {shown} --to DIR")
    if source not in ("store", "backup"):
        raise UsageError(f"{source!r} is not a place. Use --from store or --from backup.")
    config = cli.settings()
    stores = [cli.first_store(config), cli.backup_store(config)]
    if source == "backup":
        stores.reverse()
    made = Restore(stores, quiet=json)
    value = made.run(lineage, name, to, with_base=with_base)

    def tell() -> None:
        for place, objects in made.elsewhere.items():
            text = f"{count_of(objects, 'object')} came from the {place}"
            cli.console.print(text, style="yellow")
        cli.console.print(
            f"{value['version']} of {lineage} is in {to}: {count_of(value['files'], 'file')}, all "
            "verified"
        )
        line = f"(cd {quote(str(to))} && sha256sum -c SHA256SUMS)"
        cli.console.print(f"Check it again: {line}", style="dim", soft_wrap=True)

    cli.emit(value, json, tell)


class Restore:
    """A restore, which takes each object from the first store that has it whole.

    It says when that was not the first.
    """

    def __init__(self, stores: list[Store], *, quiet: bool = False) -> None:
        self.stores, self.quiet = stores, quiet
        self.fallbacks: list[str] = []
        self.elsewhere: Counter[str] = Counter()

    def run(
        self, lineage: str, name: str | None, target: Path, *, with_base: bool
    ) -> dict[str, Any]:
        """Copy a version into the target and verify it; return what was done, for programs.

        Raises TargetNotEmpty, NotFound, ObjectMissing, ObjectDamaged, StoreUnavailable.
        """
        refuse_filled(target)
        name = name or self.latest(lineage)
        commit = self.commit(lineage, name)
        target.mkdir(parents=True, exist_ok=True)
        for file in commit.files:
            path = safe_path(file.path)
            ids = {"store": file.store_version_id, "backup": file.backup_version_id}
            self.fetch(commit.prefix + path, file.sha256, file.size, target / path, ids)
        self.check_sums(commit, target)
        if with_base:
            self.base(commit.base_root, target / "base")
        sync_folder(target)
        return {
            "lineage": lineage,
            "version": name,
            "to": str(target),
            "files": len(commit.files),
            "base": str(target / "base") if with_base else None,
            "fallbacks": self.fallbacks,
        }

    def latest(self, lineage: str) -> str:
        """Return the name of the version that users load. Raises NotFound."""
        key = layout.latest(lineage)
        record = self._first(key, lambda store: stored_latest(store, lineage))
        if record is None:
            raise NotFound(
                f"{lineage} has no published version yet.", next_step="duramen versions list"
            )
        return version_name(record.version)

    def commit(self, lineage: str, name: str) -> CommitRecord:
        version = parse_version(name)
        key = layout.commit(lineage, version)
        record = self._first(key, lambda store: stored_commit(store, lineage, version))
        if record is None:
            raise NotFound(
                f"{name} of {lineage} is not published.", next_step="duramen versions list"
            )
        if record.aborted is not None:
            raise NotFound(f"{name} of {lineage} was aborted: {record.aborted}")
        return record

    def fetch(
        self, key: str, sha256: str, size: int, target: Path, ids: dict[str, str] | None = None
    ) -> None:
        """Copy one file from the first store that gives the right bytes."""
        ref = ObjectRef(bucket="duramen", key=key, sha256=sha256, size=size)

        def attempt(store: Store) -> Path:
            return store.fetch(ref, target, (ids or {}).get(store.name) or None)

        if self._first(key, attempt) is None:
            raise ObjectMissing("store and backup", PRECIOUS, key)

    def base(self, root: str, target: Path) -> None:
        """Copy a base and its SHA256SUMS, whose hash is the base's name."""
        key = layout.base_commit(root)
        data = self._first(key, lambda store: store.read(PRECIOUS, key, sha256=root))
        if data is None:
            raise ObjectMissing("store and backup", PRECIOUS, key)
        for path, sha256 in parse_sums(data).items():
            self.fetch(layout.base_file(root, path), sha256, 0, target / path)
        write_synced(target / "SHA256SUMS", data)

    def check_sums(self, commit: CommitRecord, target: Path) -> None:
        """Check that SHA256SUMS says of each file what the commit record says.

        Raises DuramenError.
        """
        sums = target / "SHA256SUMS"
        listed = parse_sums(sums.read_bytes()) if sums.is_file() else {}
        committed = {f.path: f.sha256 for f in commit.files if f.path != "SHA256SUMS"}
        if listed != committed:
            raise DuramenError(
                "SHA256SUMS and the commit record do not name the same files and hashes."
            )

    def _first(self, key: str, attempt: Callable[[Store], cli.T]) -> cli.T | None:
        """Return what the first store gives; None where all say that there is no such object."""
        failure: DuramenError | None = None
        for store in self.stores:
            try:
                found = attempt(store)
            except (ObjectMissing, ObjectDamaged, StoreUnavailable) as error:
                self.say(f"{error}")
                if failure is None or isinstance(failure, ObjectMissing):
                    failure = error
                continue
            if failure is not None:
                self.fallbacks.append(f"{key} was copied from the {store.name}")
                self.elsewhere[store.name] += 1
            return found
        if failure is None or isinstance(failure, ObjectMissing):
            return None
        raise failure

    def say(self, text: str) -> None:
        is_new = text not in self.fallbacks
        self.fallbacks.append(text)
        if is_new and not self.quiet:
            cli.console.print(text, style="yellow")


def stored_commit(store: Store, lineage: str, version: int) -> CommitRecord:
    """Return a store's commit record of a version.

    Raises ObjectMissing, also for an unreadable one and for that of another version.
    """
    key = layout.commit(lineage, version)
    record = parsed_commit(CommitRecord, store.read(PRECIOUS, key), store, key)
    folder = layout.version_files(lineage, version)
    if (record.lineage, record.version, record.prefix) != (lineage, version, folder):
        raise OtherRecord(store.name, key, f"{record.lineage} {version_name(record.version)}")
    return record


def stored_latest(store: Store, lineage: str) -> Latest:
    """Return a store's `latest`.

    Raises ObjectMissing, also for an unreadable one and for that of another lineage.
    """
    key = layout.latest(lineage)
    found = store.read_newest(PRECIOUS, key)
    record = parsed_commit(Latest, found[0] if found else b"", store, key)
    if record.lineage != lineage:
        raise OtherRecord(store.name, key, record.lineage)
    return record


def parsed_commit(kind: type[R], data: bytes, store: Store, key: str) -> R:
    try:
        return kind.model_validate_json(data)
    except ValueError as error:
        raise ObjectMissing(store.name, PRECIOUS, key) from error


def refuse_filled(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TargetNotEmpty(
            f"{target} is not an empty folder; nothing was written.",
            next_step="name a new folder with --to",
        )
