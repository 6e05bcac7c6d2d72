"""`duramen check`: check that all is as it must be on the running system; read all in full."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import typer
from pydantic import ValidationError
from rich.table import Table as Shown
from rich.text import Text

from services.ctl import cli
from services.ctl.check import commands, copies, histories, inbox, ledgers, training
from services.ctl.check.world import Ask, Finding, NotChecked, World
from services.ctl.errors import NotObserved
from services.ctl.settings import CtlSettings
from services.ctl.views.columns import count_of
from shared.bus.client import Bus
from shared.errors import ObjectDamaged, StoreUnavailable
from shared.ledger.control import Control
from shared.ledger.jobs import Table
from shared.protocol.events import Answered, Event, parse_event
from shared.protocol.message import Message
from shared.protocol.names import observed_subject
from shared.protocol.observed import Observed
from shared.service_names import SERVICES
from shared.store.folder import Folder

M = TypeVar("M", bound=Message)
SETTLE_SECONDS = 5.0  # a record follows its ledger within this


@dataclass(frozen=True)
class Check:
    """A thing that must hold: its name on the screen, its number in JSON, and who checks it."""

    name: str
    number: int
    holds: Callable[[World], list[Finding]]

    @property
    def sentence(self) -> str:
        return (self.holds.__doc__ or "").split("\n", maxsplit=1)[0].rstrip(".")


CHECKS = (
    Check("runs", 1, ledgers.every_run_starts_where_its_lineage_stood),
    Check("steps", 2, ledgers.kept_steps_follow_each_other),
    Check("records", 3, ledgers.every_record_is_valid),
    Check("jobs", 4, ledgers.job_records_agree_with_their_ledger),
    Check("versions", 5, copies.every_finished_job_has_one_version),
    Check("places", 16, copies.every_place_holds_something),
    Check("copies", 6, copies.every_copy_is_as_committed),
    Check("commits", 7, copies.all_places_hold_the_same_commits),
    Check("latest", 8, copies.latest_is_the_head_or_before_it),
    Check("checkpoints", 9, training.needed_checkpoints_are_whole),
    Check("training", 10, training.planned_steps_were_trained_once),
    Check("inbox", 11, inbox.every_file_in_done_is_stored_and_queued),
    Check("commands", 12, commands.every_command_has_one_answer),
    Check("pauses", 12, commands.no_step_follows_a_pause),
    Check("histories", 15, histories.histories_use_only_kept_snapshots),
)


@dataclass(frozen=True)
class Outcome:
    """The findings of one check.

    `not_checked` says what it could not look at; `is_outage`: it can later. `copying` names the
    copies that the vault was making meanwhile.
    """

    check: Check
    findings: list[Finding] = field(default_factory=list)
    not_checked: str | None = None
    is_outage: bool = False
    copying: list[str] = field(default_factory=list)

    @property
    def is_green(self) -> bool:
        """Whether all was looked at, and all was as it must be."""
        return not self.findings and self.not_checked is None and not self.copying

    def value(self) -> dict[str, Any]:
        """Return the outcome for programs, with the number that its check has always had."""
        named = {"check": self.check.name, "invariant": self.check.number}
        found = [{**named, "where": f.where, "what": f.what} for f in self.findings]
        said = {"not_checked": self.not_checked, "is_outage": self.is_outage}
        return {
            **named,
            "title": self.check.sentence,
            "findings": found,
            **said,
            "copying": self.copying,
        }


# ---- reading the system ------------------------------------------------------------------------


async def read_world(config: CtlSettings) -> World:
    """Fold the streams and open the stores, which the checks read.

    Raises BusUnavailable, UnknownSchema.
    """
    async with cli.bus(config) as bus:
        table = await settled_table(bus)
        controls = {service: Control(service) for service in SERVICES}
        for control in controls.values():
            await control.update(bus)
        answers = [
            (event.service, answer)
            async for _, event in readable(bus, "EVT", "evt.*.answered", Event)
            if isinstance(answer := parse_event(event), Answered)
        ]
        answers_since = await bus.lost_before("EVT")
        observed: dict[str, list[tuple[int, Observed]]] = {}
        async for sequence, said in readable(bus, "OBS", observed_subject("*"), Observed):
            observed.setdefault(said.service, []).append((sequence, said))
    folder = config.archive_dir
    return World(
        table=table,
        controls=controls,
        answers=answers,
        answers_since=answers_since,
        observed=observed,
        store=cli.first_store(config),
        backup=cli.backup_store(config),
        archive=Folder("archive", folder) if folder is not None else None,
        inbox=config.inbox_dir,
        evolution=asking(config) if config.evolution_url else None,
    )


async def readable(
    bus: Bus, stream: str, subject: str, model: type[M]
) -> AsyncIterator[tuple[int, M]]:
    """Yield the messages that parse; others cannot be answers or observations."""
    async for entry in bus.read(stream, 0, subject):
        try:
            message = model.model_validate_json(entry.data)
        except ValidationError:
            continue
        yield entry.sequence, message


async def settled_table(bus: Bus) -> Table:
    """Return the table once no record is behind its ledger, or as it is after five seconds."""
    table = Table()
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while True:
        await table.update(bus)
        if not ledgers.records_behind(table) or asyncio.get_running_loop().time() > deadline:
            return table
        await asyncio.sleep(0.25)


def asking(config: CtlSettings) -> Ask:
    def ask(kind: type[cli.T], path: str) -> cli.T:
        url, token = config.evolution_url, config.evolution_token
        return cli.ask(kind, url, token, f"/api/evolution{path}")

    return ask


# ---- checking ----------------------------------------------------------------------------------


def check_all(world: World) -> list[Outcome]:
    """Run every check. One that cannot read what it needs says so, and the others still run."""
    return [run_one(each, world) for each in CHECKS]


def run_one(check: Check, world: World) -> Outcome:
    before = len(world.copying)
    try:
        return Outcome(check, check.holds(world), copying=world.copying[before:])
    except NotChecked as error:
        return Outcome(check, error.findings, str(error), error.is_outage)
    except StoreUnavailable as error:
        return Outcome(check, not_checked=str(error), is_outage=True)


def check(json: cli.Json = False) -> None:
    """Check that records, copies, checkpoints and files are as they must be; read all in full.

    Exit 8 if one is not, 6 if something could not be looked at, 3 while the vault is still copying.
    """
    config = cli.settings()
    world = asyncio.run(read_world(config))
    results = check_all(world)
    broken = [finding for result in results for finding in result.findings]
    answer = {
        "ok": all(result.is_green for result in results),
        "results": [result.value() for result in results],
        "notes": world.pending,
    }
    cli.emit(answer, json, lambda: print_findings(results, world.pending))
    if broken:
        raise typer.Exit(ObjectDamaged.exit_code)
    if any(result.not_checked is not None for result in results):
        raise typer.Exit(StoreUnavailable.exit_code)
    if not answer["ok"]:
        raise typer.Exit(NotObserved.exit_code)


def print_findings(results: list[Outcome], notes: list[str]) -> None:
    table = Shown(box=None, pad_edge=False, header_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("what must hold", ratio=1)
    table.add_column("", no_wrap=True, overflow="ellipsis", max_width=40)
    for result in results:
        table.add_row(result.check.name, result.check.sentence, outcome(result))
    cli.console.print(table)
    for result in results:
        for finding in result.findings:
            words = (f"{result.check.name}  ", "red"), (finding.where, "bold"), f": {finding.what}"
            cli.console.print(Text.assemble(*words), soft_wrap=True)
        for said in result.copying:
            cli.console.print(Text(f"{result.check.name}  {said}", style="yellow"), soft_wrap=True)
    for note in notes:
        cli.console.print(Text(f"note: {note}", style="dim"), soft_wrap=True)


def outcome(result: Outcome) -> Text:
    if result.findings:
        return Text(count_of(len(result.findings), "finding"), style="red")
    if result.not_checked is not None:
        return Text(f"not checked: {result.not_checked}", style="yellow")
    if result.copying:
        return Text("not yet: the vault is copying", style="yellow")
    return Text("ok", style="green")
