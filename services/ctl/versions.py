"""duramen versions, restore, rollback: what was trained, whole and verified, or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from pydantic import BaseModel

from services.ctl import cli, control
from services.ctl.columns import Cell, Heads, moment_of, number, size_of, text
from shared.bus import Bus
from shared.control import Control
from shared.errors import (
    DuramenError,
    NotFound,
    ObjectDamaged,
    ObjectMissing,
    StoreUnavailable,
    TargetNotEmpty,
    UsageError,
)
from shared.jobs import Table
from shared.manifest import (
    CommitRecord,
    Latest,
    parse_sums,
    parse_version,
    safe_path,
    sync_folder,
    version_name,
    write_synced,
)
from shared.messages import ObjectRef, Once
from shared.store import PRECIOUS, Store

app = typer.Typer(no_args_is_help=False, help="Versions: list, show, verify.")
Version = Annotated[str, typer.Argument(help="A version, such as v003.")]
LatestOr = Annotated[str | None, typer.Argument(help="A version; `latest` if left out.")]
Newest = Annotated[str | None, typer.Argument(help="A version; the newest one if left out.")]
VERIFY_SECONDS = 3600.0
T = TypeVar("T")
R = TypeVar("R", bound=BaseModel)


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_versions()


def ask(path: str, method: str = "GET", seconds: float = 60.0) -> Any:
    config = cli.settings()
    return cli.ask(config.vault_url, config.vault_token, path, method, seconds)


def chosen(version: str | None, lineage: str) -> int:
    """The number of `version`, else of the newest published one. Raises UsageError, NotFound."""
    if version is not None:
        return parse_version(version)
    rows = ask(f"/api/versions?lineage={lineage}")
    numbers = [int(row["version"]) for row in rows if row["state"] == "published"]
    if not numbers:
        raise NotFound(
            f"{lineage} has no published version yet.", next_step="duramen versions list"
        )
    return max(numbers)


# ---- looking -------------------------------------------------------------------------------------


@app.command("list")
def list_versions(
    lineage: Annotated[str | None, typer.Option("--lineage", "-l")] = None, json: cli.Json = False
) -> None:
    """All versions: published ones with their copies, pending ones with the reason."""
    rows = ask("/api/versions" + (f"?lineage={lineage}" if lineage else ""))
    cli.emit(rows, json, lambda: print_rows(rows))


def print_rows(rows: list[dict[str, Any]]) -> None:
    if not rows:
        cli.console.print("There is no version yet.  Next: duramen queue list")
        return
    many = len({row["lineage"] for row in rows}) > 1
    heads: Heads = [
        "version",
        "job",
        number("steps"),
        number("size"),
        "copies",
        "published (UTC)",
        "",
    ]
    drawn = [
        [
            *([row["lineage"]] if many else []),
            row["name"],
            row["job"],
            str(row["steps"]),
            size_of(row["size"]),
            copies_of(row),
            moment_of(row["published_at"]),
            mark(row),
            row["file"],
        ]
        for row in rows
    ]
    cli.table([*(["lineage"] if many else []), *heads, text("file")], drawn)
    for row in rows:
        if row["reason"]:
            why = f"{row['name']} is not published: {row['reason']}"
            cli.console.print(why, style="red", markup=False, soft_wrap=True)


def copies_of(row: dict[str, Any]) -> Cell:
    """`3 copies, 1 disk` is no redundancy, and red."""
    if row["state"] == "pending":
        return Cell("pending", "yellow")
    shown = f"{row['copies']} on {row['domains']} disk" + ("s" if row["domains"] != 1 else "")
    return Cell(shown, "" if row["domains"] >= 2 and row["copies"] >= 3 else "red")


def mark(row: dict[str, Any]) -> Cell:
    if row["state"] == "aborted":
        return Cell("aborted", "red")
    if row["latest"]:
        return Cell("latest", "green")
    return Cell("", "") if row["in_ancestry"] else Cell("rolled back", "dim")


@app.command("show")
def show(version: Newest = None, lineage: cli.Lineage = "main", json: cli.Json = False) -> None:
    """One version: its files, hashes, copies."""
    value = ask(f"/api/versions/{lineage}/{chosen(version, lineage)}")

    def tell() -> None:
        print_rows([value])
        about = f"base    {value['base_root']}\ndataset {value['dataset']}"
        cli.console.print(about, soft_wrap=True)
        for file in (value["commit"] or {}).get("files", []):
            listed = f"{file['sha256']}  {size_of(file['size']):>9}  {file['path']}"
            cli.console.print(listed, markup=False, soft_wrap=True)
        print_checked(value["checked"])

    cli.emit(value, json, tell)


@app.command("verify")
def verify(
    version: Newest = None,
    lineage: cli.Lineage = "main",
    with_base: Annotated[bool, typer.Option("--with-base", help="Its base as well.")] = False,
    json: cli.Json = False,
) -> None:
    """Read every copy in full now, and name what is damaged."""
    path = f"/api/versions/{lineage}/{chosen(version, lineage)}/verify"
    value = ask(path + ("?with_base=true" if with_base else ""), "POST", VERIFY_SECONDS)
    cli.emit(value, json, lambda: print_checked(value["copies"]))
    if not value["ok"]:
        bad = [copy["place"] for copy in value["copies"] if not copy["ok"]]
        raise Damaged(
            f"{version_name(value['version'])}: {', '.join(bad)} not whole.",
            next_step=f"duramen restore {version_name(value['version'])} --to DIR",
        )


class Damaged(DuramenError):
    """A copy is missing or damaged."""

    exit_code = 8


def print_checked(copies: list[dict[str, Any]]) -> None:
    for copy in copies:
        colour = "green" if copy["ok"] else "red"
        word = "whole" if copy["ok"] else "DAMAGED"
        cli.console.print(
            f"{copy['place']:8} [{colour}]{word}[/{colour}]  "
            f"{copy['files']} files, {size_of(copy['bytes'])} read and hashed",
            soft_wrap=True,
        )
        for problem in copy["problems"]:
            cli.console.print(f"         {problem}", style="red", markup=False, soft_wrap=True)


# ---- restore -------------------------------------------------------------------------------------

ROLLBACK_TEXT = (
    "`restore` copies a version out of the store, into an empty folder of your choice: nothing in "
    "the system changes. To make training go on from that version, and `latest` point to it, "
    "the command is `duramen rollback {name}`; later versions stay, on a branch of their own."
)


def restore(
    version: LatestOr = None,
    to: Annotated[Path | None, typer.Option("--to", help="A new or empty folder.")] = None,
    with_base: Annotated[
        bool, typer.Option("--with-base", help="The base model too, into DIR/base.")
    ] = False,
    source: Annotated[str, typer.Option("--from", help="store or backup; tried first.")] = "store",
    lineage: cli.Lineage = "main",
    json: cli.Json = False,
) -> None:
    """Copy a version into a folder, every byte hashed on the way. Needs no service of ours."""
    name = None if version is None else version_name(parse_version(version))
    if to is None:
        shown = name or "VERSION"
        text = ROLLBACK_TEXT.format(name=shown)
        raise UsageError(text, next_step=f"duramen restore {shown} --to DIR")
    if source not in ("store", "backup"):
        raise UsageError(f"--from is store or backup, not {source!r}.")
    config = cli.settings()
    stores = [cli.store(config), cli.backup(config)]
    if source == "backup":
        stores.reverse()
    value = Restore(stores, quiet=json).run(lineage, name, to, with_base=with_base)

    def tell() -> None:
        cli.console.print(
            f"{value['version']} of {lineage} is in {to}: {value['files']} files, all hashed"
        )
        cli.console.print(f"Check it again: (cd {to} && sha256sum -c SHA256SUMS)", style="dim")

    cli.emit(value, json, tell)


class Restore:
    """Streams from the first store that has an object whole; says when it was not the first."""

    def __init__(self, stores: list[Store], *, quiet: bool = False) -> None:
        self.stores, self.quiet = stores, quiet
        self.fallbacks: list[str] = []

    def run(
        self, lineage: str, name: str | None, target: Path, *, with_base: bool
    ) -> dict[str, Any]:
        """Raises TargetNotEmpty, NotFound, ObjectDamaged, StoreUnavailable."""
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
        """The version that users load."""
        key = f"catalog/{lineage}/latest.json"
        record = self._first(key, lambda store: read_latest(store, key))
        if record is None:
            raise NotFound(
                f"{lineage} has no published version yet.", next_step="duramen versions list"
            )
        return version_name(record.version)

    def commit(self, lineage: str, name: str) -> CommitRecord:
        key = f"catalog/{lineage}/{name}.json"
        record = self._first(key, lambda store: read_commit(store, key))
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
        """One file, from the first store that gives the right bytes."""
        ref = ObjectRef(bucket="duramen", key=key, sha256=sha256, size=size)

        def attempt(store: Store) -> Path:
            return store.fetch(ref, target, (ids or {}).get(store.name) or None)

        if self._first(key, attempt) is None:
            raise ObjectMissing("store and backup", PRECIOUS, key)

    def base(self, root: str, target: Path) -> None:
        """A base and its SHA256SUMS, whose hash is the base's name."""
        key = f"bases/{root}/SHA256SUMS"
        data = self._first(key, lambda store: store.read(PRECIOUS, key, sha256=root))
        if data is None:
            raise ObjectMissing("store and backup", PRECIOUS, key)
        for path, sha256 in parse_sums(data).items():
            self.fetch(f"bases/{root}/{path}", sha256, 0, target / path)
        write_synced(target / "SHA256SUMS", data)

    def check_sums(self, commit: CommitRecord, target: Path) -> None:
        """SHA256SUMS must say of each file what the commit record says."""
        listed = parse_sums((target / "SHA256SUMS").read_bytes())
        committed = {f.path: f.sha256 for f in commit.files if f.path != "SHA256SUMS"}
        if listed != committed:
            raise DuramenError("SHA256SUMS and the commit record name other files or hashes.")

    def _first(self, key: str, attempt: Callable[[Store], T]) -> T | None:
        """What the first store gives; None where all say that there is no such object."""
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
                self.say(f"{key} was taken from {store.name}")
            return found
        if failure is None or isinstance(failure, ObjectMissing):
            return None
        raise failure

    def say(self, text: str) -> None:
        self.fallbacks.append(text)
        if not self.quiet:
            cli.console.print(text, style="yellow")


def read_commit(store: Store, key: str) -> CommitRecord:
    """Raises ObjectMissing; an unreadable one counts as missing there."""
    return parsed(CommitRecord, store.read(PRECIOUS, key), store, key)


def read_latest(store: Store, key: str) -> Latest:
    """Raises ObjectMissing; an unreadable one counts as missing there."""
    found = store.read_newest(PRECIOUS, key)
    return parsed(Latest, found[0] if found else b"", store, key)


def parsed(kind: type[R], data: bytes, store: Store, key: str) -> R:
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


# ---- rollback ------------------------------------------------------------------------------------


def rollback(
    version: Version,
    lineage: cli.Lineage = "main",
    force: Annotated[
        bool, typer.Option("--force", help="Void an open segment whose owner is dead.")
    ] = False,
    json: cli.Json = False,
) -> None:
    """Let head and latest be those of a version; what was trained since stays, on a branch."""
    cli.run(_rollback(parse_version(version), lineage, force, json))


async def _rollback(version: int, lineage: str, force: bool, json: bool) -> None:
    config = cli.settings()
    async with cli.bus(config) as bus:
        table = await Table.of(bus)
        line = table.lines.get(lineage)
        if line is None or version not in line.versions:
            raise NotFound(
                f"{lineage} has no {version_name(version)}.", next_step="duramen versions list"
            )
        command = Once(
            by=cli.who(),
            service="vault",
            command="rollback",
            lineage=lineage,
            version=version,
            force=force,
        )
        answer = await ask_vault(bus, command, config.wait_seconds)
        what = f"{lineage} {version_name(version)}"
        cli.emit(answer, json, lambda: control.print_answer("rollback", what, answer))


class Refused(DuramenError):
    """The vault refused the command."""

    exit_code = 5


async def ask_vault(bus: Bus, command: Once, seconds: float) -> dict[str, Any]:
    """Give the command, wait for its answer. Raises Refused if it is `void`, NotObserved."""
    vault = Control("vault")
    await vault.update(bus)
    answer = await control.once(bus, vault, command, seconds)
    outcome: Literal["done", "void"] = answer["outcome"]
    if outcome == "void":
        raise Refused(f"{command.command}: {answer['why']}")
    return answer


COMMANDS: dict[str, Callable[..., None]] = {"restore": restore, "rollback": rollback}
