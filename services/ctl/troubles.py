"""What is wrong with the running system now: one list, for `status`, `doctor` and exit codes."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from services.ctl import cli
from services.ctl.settings import CtlSettings
from services.ctl.views.columns import count_of, size_of, span_of
from services.ctl.views.silence import age_of
from shared.answers.vault import VersionRow
from shared.bus.client import Bus
from shared.errors import DuramenError
from shared.foreign_text import one_line
from shared.formats.version import version_name
from shared.ledger.control import newest_entries, observed_all, said_in, unknown_words
from shared.ledger.jobs import Table
from shared.protocol.names import now
from shared.protocol.observed import EXPORT_PLACE, UNSEEN, DiskSeen, Observed
from shared.service_names import SERVICES

SILENT_SECONDS = 30.0  # a service shows itself every five or ten seconds
SKEW_SECONDS = 30.0  # more than any message is on its way; stores refuse from 15 minutes on
VAULT_SECONDS = 5.0  # it reads the catalogs of every place
WHOLE_COPIES = 3
SOON_SECONDS = 86400.0  # a disk that will be full before tomorrow


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong: the part that has it, what it is, and what to type next."""

    what: str
    said: str
    next_step: str

    @property
    def line(self) -> str:
        return f"{self.said}.  Next: {self.next_step}"


@dataclass
class SystemSeen:
    """What the bus and the vault say of the system at one moment.

    `ages` and `skews` are by the clock of the bus: seconds since a service spoke, and by how much
    its clock is ahead. `versions` is None if the vault did not answer, and `vault_away` says why.
    """

    table: Table
    services: dict[str, dict[str, Observed]]
    unknown: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: list[VersionRow] | None = None
    vault_away: str = ""
    ages: dict[tuple[str, str], float] = field(default_factory=dict)
    skews: dict[str, float] = field(default_factory=dict)

    def silent(self, service: str) -> float | None:
        """Return for how many seconds no instance of a service has spoken; None if none ever."""
        views = self.services[service]
        return min((self.age(service, said) for said in views.values()), default=None)

    def age(self, service: str, said: Observed) -> float:
        known = self.ages.get((service, said.instance))
        return age_of(said) if known is None else known

    @property
    def published(self) -> dict[str, str]:
        """The newest published version that training continues from, by lineage."""
        rows = [r for r in self.versions or () if r.state == "published" and r.in_ancestry]
        return {row.lineage: row.name for row in sorted(rows, key=lambda row: row.version)}


async def see_system(config: CtlSettings, bus: Bus) -> SystemSeen:
    """Read the ledgers and what the services say, and ask the vault meanwhile.

    Raises BusUnavailable.
    """
    vault = asyncio.create_task(asyncio.to_thread(versions_kept, config))
    seen = SystemSeen(
        await Table.of(bus),
        {name: await observed_all(bus, name) for name in SERVICES},
        {name: await unknown_words(bus, name) for name in SERVICES},
    )
    await read_clocks(bus, seen)
    answer = await vault
    if isinstance(answer, str):
        seen.vault_away = answer
    else:
        seen.versions = answer
    return seen


def versions_kept(config: CtlSettings) -> list[VersionRow] | str:
    """Return every version with its copies as the vault knows them, or why it does not answer."""
    asked = config.vault_url, config.vault_token, "/api/versions", "GET", VAULT_SECONDS
    try:
        return cli.ask(list[VersionRow], *asked)
    except (DuramenError, ValueError) as error:
        return error.said if isinstance(error, DuramenError) else str(error)


async def read_clocks(bus: Bus, seen: SystemSeen) -> None:
    """Note when each service spoke, by the clock of the bus, and whose clock differs from it."""
    at_bus = await bus.clock()
    for service in SERVICES:
        for instance, entry in (await newest_entries(bus, service)).items():
            said = said_in(entry)
            if said is not None and entry.stored is not None:
                seen.ages[service, instance] = (at_bus - entry.stored).total_seconds()
                seen.skews[service] = (said.at - entry.stored).total_seconds()
    seen.skews["this host"] = (now() - at_bus).total_seconds()


def troubles(seen: SystemSeen) -> list[Trouble]:
    """Return what is wrong, the most harmful first."""
    return [
        *lost_ledgers(seen.services["vault"]),
        *versions_without_copies(seen),
        *full_disks(places_of(seen.services)),
        *silent_services(seen),
        *wrong_clocks(seen.skews),
        *odd_words(seen),
    ]


def lost_ledgers(vault: Mapping[str, Observed]) -> Iterator[Trouble]:
    for said in vault.values():
        for lineage, places in (said.orphaned or {}).items():
            where = " and ".join(places)
            text = f"versions of {lineage} lie in {where}, but the bus does not know them"
            if lineage == UNSEEN:
                text = f"the vault has not been able to look at {where} since it started"
            if EXPORT_PLACE in places:
                text = f"the bus lacks records of {lineage} that were exported: it was set back"
            yield Trouble("versions", text, "duramen check")


def versions_without_copies(seen: SystemSeen) -> Iterator[Trouble]:
    """Yield what is trained but not safe: versions in no place, then those that a place lacks."""
    if seen.versions is None:
        numbered = sum(len(line.versions) for line in seen.table.lines.values())
        if numbered:
            text = f"whether all {count_of(numbered, 'version')} have three copies is not known"
            yield Trouble("versions", f"{text}: {seen.vault_away.rstrip('.')}", "duramen check")
        return
    waiting: dict[str, list[VersionRow]] = {}
    for row in seen.versions:
        if row.state == "pending" and (row.reason or not works(seen)):
            waiting.setdefault(row.lineage, []).append(row)
    for lineage, rows in waiting.items():
        are = "is" if len(rows) == 1 else "are"
        text = f"{lineage} {names_of(rows)} {are} trained but not published"
        why = next((one_line(row.reason) for row in rows if row.reason), "")
        text += f": the only copy of {'each' if len(rows) > 1 else 'it'} is a checkpoint"
        yield Trouble("versions", text + (f" ({why})" if why else ""), "duramen check")
    lacking: dict[tuple[str, int, str], list[VersionRow]] = {}
    for row in seen.versions:
        if row.state == "published" and row.copies < WHOLE_COPIES:
            held = " and ".join(row.places) or "no place"
            lacking.setdefault((row.lineage, row.copies, held), []).append(row)
    for (lineage, number, held), rows in lacking.items():
        has = "has" if len(rows) == 1 else "each have"
        copies = count_of(number, "copy", "copies")
        text = f"{lineage} {names_of(rows)} {has} {copies} of {WHOLE_COPIES}, in {held}"
        yield Trouble("versions", text, "duramen check")


def works(seen: SystemSeen) -> bool:
    """Return whether the vault is publishing now: what it has not come to yet is not a trouble."""
    silent = seen.silent("vault")
    return silent is not None and silent <= SILENT_SECONDS


def names_of(rows: list[VersionRow]) -> str:
    names = [version_name(row.version) for row in rows]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def places_of(services: Mapping[str, Mapping[str, Observed]]) -> list[DiskSeen]:
    """Return all the places that services measure; of a service that is silent they are unknown."""
    found = []
    for said in (said for views in services.values() for said in views.values()):
        is_old = age_of(said) > SILENT_SECONDS
        unknown = {"free": None, "full_seconds": None} if is_old else {}
        found += [disk.model_copy(update=unknown) for disk in said.disks or ()]
    return found


def full_disks(disks: Iterable[DiskSeen]) -> Iterator[Trouble]:
    """Yield the places whose disk is full, and a done/ that is beyond its limit."""
    for disk in disks:
        if disk.free is not None and disk.free < disk.reserve:
            text = f"no space for {of_place(disk)}: {size_of(disk.free)} free in {disk.folder}"
            text += f", {size_of(disk.reserve)} must stay free; what needs more waits"
            yield Trouble("disk", text, "duramen disk")
        if over := disk.freeable.get("done"):
            text = f"inbox/done is {size_of(over)} above DURAMEN_DONE_LIMIT_BYTES"
            yield Trouble("disk", f"{text}; nothing in it is deleted for you", "duramen disk")


def filling_disks(disks: Iterable[DiskSeen]) -> Iterator[str]:
    """Yield which disks will be full within a day at their present rate, maybe of a short burst."""
    for disk in disks:
        if disk.full_seconds is not None and disk.full_seconds < SOON_SECONDS:
            text = f"the disk of {of_place(disk)} will be full in {span_of(disk.full_seconds)}"
            yield f"{text} at the rate of the last hours: duramen disk"


def of_place(disk: DiskSeen) -> str:
    """Return a place as people call it: services by their names, all else with an article."""
    return disk.place if disk.place in SERVICES else f"the {disk.place}"


def silent_services(seen: SystemSeen) -> Iterator[Trouble]:
    for service in SERVICES:
        silent = seen.silent(service)
        if silent is None and not seen.unknown.get(service):
            yield Trouble(service, f"{service} has never reported anything", "duramen doctor")
        elif silent is not None and silent > SILENT_SECONDS:
            text = f"{service} has been silent for {span_of(silent)}"
            yield Trouble(service, text, "duramen doctor")


def wrong_clocks(skews: Mapping[str, float]) -> Iterator[Trouble]:
    for whose, skew in skews.items():
        if abs(skew) > SKEW_SECONDS:
            how = "ahead of" if skew > 0 else "behind"
            text = f"the clock of {whose} is {span_of(abs(skew))} {how} the clock of the bus"
            yield Trouble("clock", text, "set that host's clock: timedatectl set-ntp true")


def odd_words(seen: SystemSeen) -> Iterator[Trouble]:
    for service, words in seen.unknown.items():
        if words:
            text = f"{service} reports in a form that this program does not know"
            yield Trouble(service, text, "upgrade this program, or the service")
    if seen.table.voids:
        text = f"{count_of(len(seen.table.voids), 'invalid record')} on the bus"
        yield Trouble("records", text, "duramen check")
