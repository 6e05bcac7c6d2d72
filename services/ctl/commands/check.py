"""`duramen check`: do the invariants hold on the running system? Everything is read in full."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import typer
from pydantic import ValidationError
from rich.table import Table as Shown
from rich.text import Text

from services.ctl import cli
from services.ctl.check import copies, ledgers, training
from services.ctl.check.ledgers import Finding, NotChecked, World
from services.ctl.settings import CtlSettings
from shared.bus.client import Bus
from shared.errors import ObjectDamaged, StoreUnavailable
from shared.ledger.control import Control
from shared.ledger.jobs import Table
from shared.protocol.events import Answered, Event, parse_event
from shared.protocol.message import Message
from shared.protocol.names import observed_subject
from shared.protocol.observed import Observed
from shared.store.folder import Folder

M = TypeVar("M", bound=Message)
SERVICES = ("ingest", "trainer", "vault", "evolution")
SETTLE_SECONDS = 5.0  # a record follows its ledger within this
CHECKS: dict[int, Callable[[World], list[Finding]]] = {
    1: ledgers.invariant_1,
    2: ledgers.invariant_2,
    3: ledgers.invariant_3,
    4: ledgers.invariant_4,
    5: copies.invariant_5,
    6: copies.invariant_6,
    7: copies.invariant_7,
    8: copies.invariant_8,
    9: training.invariant_9,
    10: training.invariant_10,
    11: training.invariant_11,
    12: ledgers.invariant_12,
    15: training.invariant_15,
}


@dataclass(frozen=True)
class Result:
    """One invariant's outcome. `not_checked` says why, or is None; `is_outage`: try again."""

    invariant: int
    title: str
    findings: list[Finding] = field(default_factory=list)
    not_checked: str | None = None
    is_outage: bool = False


# ---- reading the system ------------------------------------------------------------------------


async def read_world(config: CtlSettings) -> World:
    """Fold the streams; the stores are read by the checks. Raises BusUnavailable, UnknownSchema."""
    async with cli.bus(config) as bus:
        table = await settled(bus)
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
        store=cli.store(config),
        backup=cli.backup(config),
        archive=Folder("archive", folder) if folder is not None and folder.is_dir() else None,
        inbox=config.inbox_dir,
        evolution=asking(config) if config.evolution_url else None,
    )


async def readable(
    bus: Bus, stream: str, subject: str, model: type[M]
) -> AsyncIterator[tuple[int, M]]:
    """The messages that parse; what does not says nothing to anybody."""
    async for entry in bus.read(stream, 0, subject):
        try:
            message = model.model_validate_json(entry.data)
        except ValidationError:
            continue
        yield entry.sequence, message


async def settled(bus: Bus) -> Table:
    """The table once no record is behind its ledger, or as it stands after some seconds."""
    table = Table()
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while True:
        await table.update(bus)
        if not ledgers.records_behind(table) or asyncio.get_running_loop().time() > deadline:
            return table
        await asyncio.sleep(0.25)


def asking(config: CtlSettings) -> Callable[[str], Any]:
    def ask(path: str) -> Any:
        url, token = config.evolution_url, config.evolution_token
        return cli.ask(url, token, f"/api/evolution{path}")

    return ask


# ---- checking ----------------------------------------------------------------------------------


def check_all(world: World) -> list[Result]:
    """Run every check; what is away or damaged beyond reading is said, and the rest goes on."""
    return [run_one(number, check, world) for number, check in CHECKS.items()]


def run_one(number: int, check: Callable[[World], list[Finding]], world: World) -> Result:
    title = (check.__doc__ or "").split("\n", maxsplit=1)[0].rstrip(".")
    try:
        return Result(number, title, check(world))
    except NotChecked as error:
        return Result(number, title, not_checked=str(error), is_outage=error.is_outage)
    except StoreUnavailable as error:
        return Result(number, title, not_checked=str(error), is_outage=True)


def check(json: cli.Json = False) -> None:
    """Check every invariant on streams, stores and folders.

    Exit 8 if one does not hold, 6 if a service or a store was away and not all could be checked.
    """
    config = cli.settings()
    world = asyncio.run(read_world(config))
    results = check_all(world)
    if world.archive is None:
        world.pending.append("6, 7, 8: the archive cannot be reached from here")
    broken = [finding for result in results for finding in result.findings]
    answer = {
        "ok": not broken,
        "results": [asdict(result) for result in results],
        "notes": world.pending,
    }
    cli.emit(answer, json, lambda: show(results, world.pending))
    if broken:
        raise typer.Exit(ObjectDamaged.exit_code)
    if any(result.is_outage for result in results):
        raise typer.Exit(StoreUnavailable.exit_code)


def show(results: list[Result], notes: list[str]) -> None:
    table = Shown(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("invariant", ratio=1)
    table.add_column("", no_wrap=True, overflow="ellipsis", max_width=40)
    for result in results:
        table.add_row(str(result.invariant), result.title, outcome(result))
    cli.console.print(table)
    for result in results:
        for finding in result.findings:
            words = (f"{finding.invariant}  ", "red"), (finding.where, "bold"), f": {finding.what}"
            cli.console.print(Text.assemble(*words), soft_wrap=True)
    for note in notes:
        cli.console.print(Text(f"note {note}", style="dim"), soft_wrap=True)


def outcome(result: Result) -> Text:
    if result.not_checked is not None:
        return Text(f"not checked ({result.not_checked})", style="yellow")
    count = len(result.findings)
    if count:
        return Text(f"{count} finding{'s' if count > 1 else ''}", style="red")
    return Text("ok", style="green")
