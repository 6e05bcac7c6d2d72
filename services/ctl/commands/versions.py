"""duramen versions, rollback: what was trained, its copies, and what training continues from."""

from collections.abc import Sequence
from typing import Annotated

import typer

from services.ctl import cli
from services.ctl.commands import control
from services.ctl.views.columns import Cell, Heads, Rows, count_of, moment_of, number, size_of, text
from services.ctl.views.naming import LATEST, parse_version
from shared.answers.vault import CheckedCopy, Verified, VersionRow, VersionShown
from shared.bus.client import Bus
from shared.errors import DuramenError, NotFound
from shared.formats.version import version_name
from shared.ledger.control import Control
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line
from shared.protocol.control import Once
from shared.protocol.events import Answered

app = typer.Typer(no_args_is_help=False, help="Versions: list, show, verify.")
Version = Annotated[str, typer.Argument(help="A version, such as v003.")]
Newest = Annotated[
    str | None, typer.Argument(help="A version, such as v003. Without it, the newest.")
]
VERIFY_SECONDS = 3600.0


@app.callback(invoke_without_command=True)
def versions_without_command(context: typer.Context, json: cli.Json = False) -> None:
    if context.invoked_subcommand is None:
        list_versions(json=json)


def ask_of_vault(kind: type[cli.T], path: str, method: str = "GET", seconds: float = 60.0) -> cli.T:
    config = cli.settings()
    return cli.ask(kind, config.vault_url, config.vault_token, path, method, seconds)


def version_number(version: str | None, lineage: str) -> int:
    """Return the number of `version`, else of the newest published one.

    Raises UsageError, NotFound.
    """
    if version not in (None, LATEST):
        return parse_version(str(version))
    rows = ask_of_vault(list[VersionRow], f"/api/versions?lineage={lineage}")
    published = [row for row in rows if row.state == "published"]
    numbers = [row.version for row in published if row.latest or version is None]
    if not numbers:
        raise NotFound(
            f"{lineage} has no published version yet.", next_step="duramen versions list"
        )
    return max(numbers)


# ---- looking -------------------------------------------------------------------------------------


@app.command("list")
def list_versions(
    lineage: Annotated[
        str | None, typer.Option("--lineage", "-l", help="Only the versions of this lineage.")
    ] = None,
    json: cli.Json = False,
) -> None:
    """List all versions: the published ones with their copies, others with the reason."""
    rows = ask_of_vault(
        list[VersionRow], "/api/versions" + (f"?lineage={lineage}" if lineage else "")
    )
    cli.emit(rows, json, lambda: print_versions(rows))


def print_versions(rows: Sequence[VersionRow]) -> None:
    if not rows:
        cli.console.print("No version has been published yet.  Next: duramen queue list")
        return
    many = len({row.lineage for row in rows}) > 1
    heads: Heads = [
        "version",
        "job",
        number("steps"),
        number("size"),
        "copies",
        "published (UTC)",
        "",
    ]
    drawn: Rows = [
        [
            *([row.lineage] if many else []),
            row.name,
            row.job,
            str(row.steps),
            size_of(row.size),
            copies_of(row),
            moment_of(row.published_at),
            version_mark(row),
            row.file,
        ]
        for row in rows
    ]
    cli.print_table([*(["lineage"] if many else []), *heads, text("file")], drawn)
    for row in rows:
        if row.reason:
            why = f"{row.name} is not published: {row.reason}"
            cli.console.print(why, style="red", soft_wrap=True)


def copies_of(row: VersionRow) -> Cell:
    """Return how many copies and disks a version has: red below 3 copies or 2 disks."""
    if row.state == "pending":
        return Cell("pending", "yellow")
    shown = f"{row.copies} on {count_of(row.domains, 'disk')}"
    return Cell(shown, "" if row.domains >= 2 and row.copies >= 3 else "red")


def version_mark(row: VersionRow) -> Cell:
    if row.state == "aborted":
        return Cell("aborted", "red")
    if row.latest:
        return Cell("latest", "green")
    return Cell("", "") if row.in_ancestry else Cell("rolled back", "dim")


@app.command("show")
def show_version(
    version: Newest = None, lineage: cli.Lineage = "main", json: cli.Json = False
) -> None:
    """Show one version: its files, their hashes and its copies."""
    value = ask_of_vault(
        VersionShown, f"/api/versions/{lineage}/{version_number(version, lineage)}"
    )

    def tell() -> None:
        print_versions([value])
        about = f"base    {value.base_root}\ndataset {value.dataset}"
        cli.console.print(about, soft_wrap=True)
        for file in value.commit.files if value.commit else []:
            listed = f"{file.sha256}  {size_of(file.size):>9}  {file.path}"
            cli.console.print(listed, soft_wrap=True)
        print_checked(value.checked)

    cli.emit(value, json, tell)


@app.command("verify")
def verify(
    version: Newest = None,
    lineage: cli.Lineage = "main",
    with_base: Annotated[
        bool, typer.Option("--with-base", help="Also read its base model.")
    ] = False,
    json: cli.Json = False,
) -> None:
    """Read every copy in full now and name what is damaged."""
    path = f"/api/versions/{lineage}/{version_number(version, lineage)}/verify"
    value = ask_of_vault(
        Verified, path + ("?with_base=true" if with_base else ""), "POST", VERIFY_SECONDS
    )
    cli.emit(value, json, lambda: print_checked(value.copies))
    if not value.ok:
        bad = [copy.place for copy in value.copies if not copy.ok]
        raise Damaged(
            f"{version_name(value.version)}: the copy in {', '.join(bad)} is damaged or "
            "incomplete.",
            next_step=f"duramen restore {version_name(value.version)} -l {lineage} --to DIR",
        )


class Damaged(DuramenError):
    """A copy of a version is missing or damaged."""

    exit_code = 8


def print_checked(copies: list[CheckedCopy]) -> None:
    from rich.text import Text

    for copy in copies:
        colour = "green" if copy.ok else "red"
        word = "whole" if copy.ok else "DAMAGED"
        read = f"{count_of(copy.files, 'file')}, {size_of(copy.bytes)}"
        cli.console.print(
            Text.assemble(f"{copy.place:8} ", (word, colour), f"  {read} read and hashed"),
            soft_wrap=True,
        )
        for problem in copy.problems:
            cli.console.print(f"         {problem}", style="red", soft_wrap=True)


# ---- rollback ------------------------------------------------------------------------------------


def rollback(
    version: Version,
    lineage: cli.Lineage = "main",
    force: Annotated[
        bool, typer.Option("--force", help="Cancel the current run if its trainer no longer runs.")
    ] = False,
    yes: cli.Yes = False,
    json: cli.Json = False,
) -> None:
    """Make training continue from a version and `latest` point to it. Later versions are kept.

    On a terminal it asks first, and says which versions training will not continue from.
    """
    cli.run_command(_rollback(parse_version(version), lineage, force, yes, json))


def rollback_question(line: Line, version: int) -> str:
    """Return what a rollback changes, as a question."""
    lost = sorted(v for v, at in line.versions.items() if v > version and at in line.ancestry())
    names = ", ".join(version_name(v) for v in lost)
    left = f"{names} will be kept, but not trained on" if lost else "no version is left behind"
    return f"Let {line.lineage} continue from {version_name(version)}? ({left})"


async def _rollback(version: int, lineage: str, force: bool, yes: bool, json: bool) -> None:
    config = cli.settings()
    async with cli.bus(config) as bus:
        table = await Table.of(bus)
        line = table.lines.get(lineage)
        if line is None or version not in line.versions:
            raise NotFound(
                f"{lineage} has no {version_name(version)}.", next_step="duramen versions list"
            )
        cli.confirm(rollback_question(line, version), yes)
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
        cli.emit(answer.told(), json, lambda: control.print_answer("rollback", what, answer))


class CommandRefused(DuramenError):
    """The vault refused the command."""

    exit_code = 5


async def ask_vault(bus: Bus, command: Once, seconds: float) -> Answered:
    """Give the command and wait for its answer.

    Raises CommandRefused if the answer is `void`, and NotObserved.
    """
    vault = Control("vault")
    await vault.update(bus)
    answer = await control.once(bus, vault, command, seconds)
    if answer.outcome == "void":
        raise CommandRefused(f"{command.command}: {answer.why}")
    return answer
