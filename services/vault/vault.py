"""The vault's loops: publish what the ledger numbered, move `latest`, watch what must not change.

Nothing is remembered that streams and stores do not hold: `settled` is read from the three catalogs
at the first look at a lineage.
"""

import asyncio
from dataclasses import dataclass, field

from prometheus_client import Gauge

from services.vault import bases, catalog, checks, edition, latest, publish
from services.vault.alarms import vault_alarms
from services.vault.copies import Copies, Stopping
from services.vault.export.chain import Chain
from services.vault.export.exporter import Exporter
from services.vault.lock import RollingLock
from services.vault.orphans import Orphans
from services.vault.settings import VaultSettings
from shared import log
from shared.backoff import Backoff
from shared.bus.client import Bus
from shared.errors import MALFORMED, DuramenError, StoreUnavailable
from shared.files import sha256_bytes
from shared.formats.version import CommitRecord, version_name
from shared.ledger.control import Control, sequence_of
from shared.ledger.invalid import VoidTeller
from shared.ledger.jobs import Table
from shared.ledger.last_answer import LastAnswer
from shared.ledger.lineage import Line
from shared.protocol.events import Event, VersionPublished
from shared.protocol.message import ObjectRef
from shared.protocol.observed import UNSEEN, Observed, ObservedState
from shared.service.disks import Disks
from shared.service.observer import Observer
from shared.store import layout
from shared.store.place import PRECIOUS

PENDING = Gauge("duramen_vault_pending_versions", "Versions that are closed but not published.")
PUBLISHED = Gauge("duramen_vault_published_versions", "Versions with a commit in all places.")
LAST = Gauge("duramen_vault_last_publish_seconds", "Unix time of the last publish.")
COPIES = Gauge("duramen_vault_copies", "The fewest copies that any version is kept in.")
DOMAINS = Gauge("duramen_vault_failure_domains", "Disks or hosts that hold the copies.")
LATEST = Gauge("duramen_latest_version_info", "Always 1; what `latest` is.", ["lineage", "version"])
SWEPT = Gauge(
    "duramen_vault_last_sweep_seconds", "Unix time of the last complete check for changes."
)
GOAL = Gauge("duramen_vault_copies_wanted", "Copies that each version should have.")
FIRST_RETRY_SECONDS = 1.0
HEARTBEAT_SECONDS = 10.0
KEPT_PREFIXES = (layout.DATASETS, layout.EVAL, layout.PLANS)

Key = tuple[str, int]


@dataclass
class Retry:
    """The reason why a version could not be published, and the delay until the next attempt."""

    why: str
    delay: Backoff


@dataclass
class Vault:
    """The state of one vault process.

    `settled` holds the versions whose commit is in all three places; `refilling`, those whose
    commit a place has lost since.
    """

    settings: VaultSettings
    bus: Bus
    copies: Copies
    by: str
    retry_seconds: float = 30.0
    table: Table = field(default_factory=Table)
    control: Control = field(default_factory=lambda: Control("vault"))
    settled: set[Key] = field(default_factory=set)
    refilling: set[Key] = field(default_factory=set)
    pending: dict[Key, Retry] = field(default_factory=dict)
    checked: dict[Key, list[checks.CopyFound]] = field(default_factory=dict)
    sound_bases: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    latest_at: dict[str, int] = field(default_factory=dict)
    latest_shown: dict[str, str] = field(default_factory=dict)
    busy: str | None = None
    waiting: str | None = None
    disks: Disks | None = None

    def __post_init__(self) -> None:
        self.alarms = vault_alarms(self.bus)
        self.lock = RollingLock(self.copies.backup)
        self.orphans, self.orphaned = Orphans(self.copies), dict[str, list[str]]()
        # A record on a ledger's subject that does not count is somebody's mistake, or worse.
        folder = self.settings.state_dir
        self.voids = VoidTeller(self.bus, "vault", "JOBS", folder / "voids-told")
        self.own_voids = VoidTeller(self.bus, "vault", "CTL", folder / "voids-told-ctl")
        self.export = Exporter(self.bus, Chain(self.copies), self.alarms, self.orphans)
        self.wake, self.wake_commands, self.wake_inputs = (asyncio.Event() for _ in range(3))
        self.last_answer = LastAnswer(self.bus, "vault", "vault", folder / "answered-through")
        self.observer = Observer(self.bus, HEARTBEAT_SECONDS, quiet=["ledger", "disks"])
        self._log = log.get()
        GOAL.set(self.settings.copies)
        COPIES.set(len(self.copies.places))
        DOMAINS.set(self.settings.failure_domains)

    @property
    def once_through(self) -> int:
        """The sequence of the last one-time command that was answered; -1 before that is known."""
        return self.last_answer.sequence

    # ---- publishing ------------------------------------------------------------------------------

    async def once(self) -> None:
        """Look at all lineages once. Raises BusUnavailable, StoreUnavailable."""
        if self.orphans.due:
            await asyncio.to_thread(self.orphans.read)
        await self.table.update(self.bus)
        await self.tell_orphans()
        await self.control.update(self.bus)
        await self.voids.tell(self.table.voids)
        await self.own_voids.tell(self.control.voids)
        if self.control.state == "running" and not self.orphans.bus_went_back:
            for line in list(self.table.lines.values()):
                await self.look(line)
        PENDING.set(len(self.pending))
        PUBLISHED.set(len(self.settled))
        await self.observe()

    async def tell_orphans(self) -> None:
        """Raise an alarm for each lineage whose versions lie in places but not in its ledger."""
        self.orphaned = self.orphans.beside(self.table)
        for lineage, places in self.orphaned.items():
            detail = (
                f"versions of {lineage} lie in {' and '.join(places)}, but its ledger has none: "
                "the bus was lost. Nothing is trained under this name until the bus is put back."
            )
            await self.alarms.sound("ledger_lost", lineage, detail, lineage)
        for what, lineage in list(self.alarms.standing):
            if what == "ledger_lost" and lineage not in self.orphaned:
                self.alarms.clear(what, lineage)

    async def look(self, line: Line) -> None:
        open_versions = [v for v in line.versions if (line.lineage, v) not in self.settled]
        if open_versions and not any(key[0] == line.lineage for key in self.settled):
            await self.read_catalogs(line)
        for version in sorted(open_versions):
            key = line.lineage, version
            retry = self.pending.get(key)
            if key in self.settled:  # it lay everywhere after all
                self.is_whole(key)
                continue
            if retry and not retry.delay.is_over:
                continue
            await self.try_publish(line, version)
        await self.follow_latest(line)

    async def read_catalogs(self, line: Line) -> None:
        """Settle the versions that are committed in all places: they need nothing more."""
        closes = {
            version: (sequence, close)
            for version, sequence in line.versions.items()
            if (close := line.version_close(version)) is not None
        }
        try:
            found = await asyncio.to_thread(catalog.settled, self.copies, line.lineage, closes)
        except (DuramenError, *MALFORMED):
            return  # trying to publish will say what is wrong
        self.settled |= {(line.lineage, version) for version in found}

    async def try_publish(self, line: Line, version: int) -> None:
        """Publish a version, or note why not and try again later; the source is never touched."""
        key, name = (line.lineage, version), f"{line.lineage}/{version_name(version)}"
        self.busy = f"publishing {name}"
        await self.observe()
        try:
            wanted = edition.wanted(self.table, line, version)
            commit = await asyncio.to_thread(publish.publish, self.copies, wanted, self.sound_bases)
        except Stopping:
            return
        except (DuramenError, OSError, *MALFORMED) as error:
            await self.put_off(key, name, error)
            return
        finally:
            self.busy = None
        self.settled.add(key)
        is_new = key not in self.refilling
        self.is_whole(key)
        if commit.aborted is None and is_new:
            await self.tell_published(wanted, commit)

    def is_whole(self, key: Key) -> None:
        """End the alarms about a version all of whose copies were just read or found."""
        name = f"{key[0]}/{version_name(key[1])}"
        self.pending.pop(key, None)
        self.alarms.clear("not_published", name)
        if key in self.refilling:
            self.refilling.discard(key)
            self.checked.pop(key, None)
            for place in self.copies.places:
                self.alarms.clear("damaged", f"{place.name}: {name}")

    async def put_off(self, key: Key, name: str, error: Exception) -> None:
        name_of = "" if isinstance(error, DuramenError) else f"{type(error).__name__}: "
        why = f"{name_of}{error}"
        delay = Backoff(FIRST_RETRY_SECONDS, self.retry_seconds)
        retry = self.pending.setdefault(key, Retry(why, delay))
        retry.why = why
        retry.delay.grow()
        PENDING.set(len(self.pending))
        self._log.warning(
            "not_published", version=name, error=why, retry_seconds=retry.delay.seconds
        )
        await self.observe()
        await self.alarms.sound("not_published", name, why, key[0])

    async def tell_published(self, wanted: edition.Edition, commit: CommitRecord) -> None:
        LAST.set_to_current_time()
        data = catalog.encode(commit)
        ref = ObjectRef(
            bucket="duramen",
            key=wanted.commit_key,
            sha256=sha256_bytes(data),
            size=len(data),
        )
        size = sum(file.size for file in commit.files)
        self._log.info("version_published", lineage=wanted.lineage, version=wanted.name, bytes=size)
        await self.bus.event(
            Event.of(
                "vault",
                VersionPublished(
                    version=wanted.version,
                    ledger_sequence=wanted.sequence,
                    copies=commit.verified_copies,
                    bytes=size,
                ),
                lineage=wanted.lineage,
                job=wanted.close.job,
                ref=ref,
            )
        )

    async def follow_latest(self, line: Line) -> None:
        """Move `latest`; an unreadable catalog raises an alarm and delays no other lineage."""
        try:
            await self.move_latest(line)
        except StoreUnavailable:
            raise
        except (DuramenError, *MALFORMED) as error:
            why = f"{type(error).__name__}: {error}"
            await self.alarms.sound("latest_not_moved", line.lineage, why, line.lineage)
            return
        self.alarms.clear("latest_not_moved", line.lineage)

    async def move_latest(self, line: Line) -> None:
        held = {v for v in line.versions if (line.lineage, v) in self.settled}
        while (wish := latest.wanted_latest(line, held)) is not None:
            if self.latest_at.get(line.lineage, -1) >= wish.ledger_sequence:
                return
            commit = await asyncio.to_thread(
                catalog.read_commit_anywhere, self.copies, line.lineage, wish.version
            )
            if commit.aborted is None:
                break
            held.discard(wish.version)
        if wish is None:
            return
        moved = await asyncio.to_thread(latest.move_all, self.copies, wish)
        self.latest_at[line.lineage] = wish.ledger_sequence
        self.show_latest(line.lineage, version_name(wish.version))
        if any(moved.values()):
            self._log.info("latest_moved", lineage=line.lineage, version=wish.version)

    def show_latest(self, lineage: str, name: str) -> None:
        """Show a lineage's `latest` as a metric, in place of its previous series."""
        before = self.latest_shown.get(lineage)
        if before:
            LATEST.remove(lineage, before)
        LATEST.labels(lineage, name).set(1)
        self.latest_shown[lineage] = name

    # ---- watching --------------------------------------------------------------------------------

    async def keep_inputs(self) -> None:
        """Copy new datasets and plans to all places: they are as precious as versions."""
        await asyncio.to_thread(self.copies.ping)
        for prefix in KEPT_PREFIXES:
            found = self.copies.store.keys(PRECIOUS, prefix)
            for key in await asyncio.to_thread(list, found):
                if key not in self.kept:
                    await self.keep(key)

    async def sweep(self) -> None:
        """Look for overwritten or deleted names, unfinished uploads and lost copies."""
        for place in (self.copies.store, self.copies.backup):
            hidden = await asyncio.to_thread(checks.shadowed, place)
            for key, what in hidden.items():
                about = f"{place.name}: {key}"
                await self.alarms.sound(
                    "shadowed", about, f"{what} hides the oldest version, which is the truth"
                )
        # A command may wait for days until the backup is back.
        asked = {once.base_root for _, once in self.control.pending(self.once_through)}
        stale = await asyncio.to_thread(
            bases.sweep_staging, self.copies, {root for root in asked if root}
        )
        for root in stale:
            self._log.info("staging_swept", base_root=root)
        self.orphans.due = True
        await self.count_copies()
        SWEPT.set_to_current_time()

    async def count_copies(self) -> None:
        """Count the copies of each version; have those copied again that a place has lost.

        A copy that was found damaged does not count. Raises StoreUnavailable.
        """
        await asyncio.to_thread(self.copies.ping)  # an archive that is not mounted has lost nothing
        kept = len(self.copies.places)
        for line in list(self.table.lines.values()):
            settled = set(self.settled)  # before the look: what is published meanwhile is not lost
            held = await asyncio.to_thread(catalog.committed, self.copies, line.lineage)
            for key in [(line.lineage, version) for version in line.versions]:
                places = {place for place, names in held.items() if version_name(key[1]) in names}
                if not places:
                    continue  # not published yet
                if len(places) < len(held) and key in settled:
                    self.settled.discard(key)
                    self.refilling.add(key)
                    self.wake.set()
                damaged = {found.place for found in self.checked.get(key, ()) if not found.ok}
                kept = min(kept, len(places - damaged))
        COPIES.set(kept)

    async def extend_locks(self) -> None:
        """Extend the locks of what lies in the backup. Raises StoreUnavailable."""
        try:
            extended = await asyncio.to_thread(self.lock.extend)
        except StoreUnavailable as error:
            await self.alarms.sound("lock_not_extended", "backup", str(error))
            raise
        self.alarms.clear("lock_not_extended", "backup")
        if extended:
            self._log.info("locks_extended", objects=extended)

    async def keep(self, key: str) -> None:
        """Copy one input to all places, once in each process. Raises StoreUnavailable."""
        try:
            await asyncio.to_thread(self.copies.keep, key)
        except StoreUnavailable:
            raise
        except (DuramenError, *MALFORMED) as error:
            await self.alarms.sound("not_kept", key, str(error))
            return
        self.kept.add(key)
        self.alarms.clear("not_kept", key)

    # ---- telling ---------------------------------------------------------------------------------

    def reasons(self) -> dict[str, str]:
        """Return what the vault waits for, by lineage, of a few versions; `*`: all lineages."""
        found = {"*": self.waiting[:2000]} if self.waiting else {}
        for (lineage, version), retry in list(self.pending.items())[:3]:
            said = f"{version_name(version)} is not published: {retry.why}"
            before = f"{found[lineage]}; " if lineage in found else ""
            found[lineage] = f"{before}{said}"[:2000]
        return found

    async def observe(self) -> None:
        """Report the state of the vault: at once when it changed, else from time to time."""
        if self.once_through < 0:
            return  # what was answered before is not known yet
        state: ObservedState
        if self.control.state != "running":
            state = self.control.state
        else:
            state = "waiting" if self.pending else "running" if self.busy else "idle"
        unseen = {UNSEEN: self.orphans.unseen} if self.orphans.unseen else {}
        view = Observed(
            service="vault",
            instance="vault",
            state=state,
            generation=self.control.generation,
            once_through=self.once_through,
            waiting=self.reasons() or ({"*": self.busy} if self.busy else {}),
            orphaned=self.orphaned | unseen | self.orphans.behind(self.table) or None,
            ledger=self.table.seen,
            disks=self.disks.seen if self.disks else None,
        )
        await self.observer.show(view)

    async def recall(self) -> None:
        """Learn which one-time command was answered last, by its note and its own messages."""
        if self.once_through < 0:
            entry = await self.bus.last("EVT", "evt.vault.answered")
            said = sequence_of(entry.data) if entry and not entry.copied else 0
            await self.last_answer.recall(self.control.seen, said)
