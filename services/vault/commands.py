"""One-time commands to the vault, `rollback` and `base`, taken in sequence and answered once.

A command that was cut off is taken again. What it had already done is found in the ledger and in
the places, and is answered as done.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from services.vault import bases, catalog, checks, edition
from services.vault.copies import Stopping
from services.vault.vault import Vault
from shared import log
from shared.errors import (
    MALFORMED,
    AlreadyExists,
    Conflict,
    NotFound,
    ObjectDamaged,
    StoreUnavailable,
    UsageError,
)
from shared.formats.version import version_name
from shared.ledger.lease import LeaseWatch, Sign
from shared.ledger.lineage import Line
from shared.protocol.control import Once
from shared.protocol.events import Answered, BaseStored, Event, NoReceipt, RolledBack
from shared.protocol.records import LineRollback

WHY_LENGTH = 2000


@dataclass(frozen=True)
class Answer:
    """The answer to a command; `outcome` is done or void, and `receipt` says what was done."""

    outcome: Literal["done", "void"]
    why: str
    receipt: BaseStored | RolledBack | NoReceipt = field(default_factory=NoReceipt)


class NotYet(Exception):
    """The answer is not known yet; the message says what it waits for."""


class CommandLoop:
    """The loop that takes commands and answers them."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self.watch = LeaseWatch(vault.bus, vault.settings.lease_seconds)
        self.signs: dict[str, Sign] = {}

    async def once(self) -> None:
        """Answer the pending commands, up to one whose answer cannot be known yet.

        Raises BusUnavailable, StoreUnavailable.
        """
        vault = self.vault
        await vault.control.update(vault.bus)
        await vault.recall()
        await vault.table.update(vault.bus)
        await self.watch_owners()
        for at, command in vault.control.pending(vault.once_through):
            try:
                answer = await self.take(command)
            except NotYet as reason:
                vault.waiting = str(reason)
                break
            except Stopping:
                return
            vault.waiting = None
            await self.answer(at, command, answer)
        await vault.observe()

    async def watch_owners(self) -> None:
        """Update the sign of life of every open segment's owner.

        Owners are watched all the time, so that a command need not wait for a sign of life or
        death.
        """
        for line in self.vault.table.lines.values():
            segment = line.open_segment
            if segment is not None:
                self.signs[line.lineage] = await self.watch.look(
                    segment.record.lease, segment.fence
                )

    async def take(self, command: Once) -> Answer:
        """Carry out a command and return its answer.

        A failure that is not an outage becomes an answer. Raises NotYet, BusUnavailable,
        StoreUnavailable.
        """
        try:
            match command.command:
                case "rollback":
                    return await self.roll_back(command)
                case "base":
                    return await self.store_base(command)
        except StoreUnavailable as error:
            self.vault.waiting = f"{command.command}: {error}"
            await self.vault.observe()
            raise
        except (UsageError, NotFound, ObjectDamaged, AlreadyExists, *MALFORMED) as error:
            return Answer("void", str(error) or type(error).__name__)
        return Answer("void", f"the vault does not know the command {command.command!r}")

    async def answer(self, at: int, command: Once, answer: Answer) -> None:
        """Publish the answer, then the mark that the command was answered.

        If the vault is killed in between, it gives the same answer again.
        """
        vault = self.vault
        answered = Answered(
            command=command.nonce,
            sequence=at,
            outcome=answer.outcome,
            why=answer.why[:WHY_LENGTH],
            receipt=answer.receipt,
        )
        await vault.bus.event(Event.of("vault", answered, lineage=command.lineage))
        vault.last_answer.answered(at)
        await vault.observe()
        log.get().info(
            "answered",
            command=command.command,
            sequence=at,
            by=command.by,
            outcome=answer.outcome,
            why=answer.why,
        )

    # ---- base ------------------------------------------------------------------------------------

    async def store_base(self, command: Once) -> Answer:
        root = command.base_root
        if root is None:
            return Answer("void", "the command does not name a base")
        try:
            receipt = await asyncio.to_thread(bases.store_base, self.vault.copies, root)
        except MALFORMED as error:  # anybody's files: they must not end the service
            why = f"{type(error).__name__}: {error}"
            log.get().exception("base_not_read", base_root=root)
            await self.vault.alarms.sound("base_not_read", root, why)
            return Answer("void", f"base {root[:12]} cannot be read: {why}")
        self.vault.sound_bases.add(root)
        await self.vault.bus.event(Event.of("vault", receipt))
        self.vault.wake.set()  # a version may wait for it
        return Answer("done", f"base {root[:12]} is in {receipt.copies} places, read back", receipt)

    # ---- rollback --------------------------------------------------------------------------------

    async def roll_back(self, command: Once) -> Answer:
        """Move head and `latest` back to a version; refused while a segment is open and owned."""
        vault = self.vault
        if command.lineage is None or command.version is None:
            return Answer("void", "the command does not name a version")
        while True:
            line = vault.table.lines.get(command.lineage)
            if line is None:
                return Answer("void", f"there is no lineage {command.lineage}")
            done = next((at for at, r in line.rollbacks if r.cause == command.nonce), None)
            if done is not None:
                return await self.rolled_back(line, command.version, done)
            refusal = await self.refusal(line, command)
            if refusal is not None:
                return refusal
            with suppress(Conflict):  # the ledger moved: look at it again
                await line.append(vault.bus, "rollback", self.record(line, command))
            await vault.table.update(vault.bus)
            await self.watch_owners()

    async def refusal(self, line: Line, command: Once) -> Answer | None:
        """Return why the rollback is refused, or None if it is not.

        Raises NotYet while the owner's state is not known.
        """
        version = command.version
        assert version is not None
        name = version_name(version)
        if version not in line.versions:
            return Answer("void", f"{line.lineage} has no {name}")
        segment = line.open_segment
        if segment is not None:
            if not command.force:
                why = f"job {segment.job} is being trained. End its run with `duramen stop`"
                return Answer("void", f"{why}, or use --force if its trainer no longer runs")
            sign = self.signs.get(line.lineage, "unknown")
            if sign == "unknown":
                raise NotYet(
                    f"{line.lineage}: the rollback to {name} waits up to {self.watch.seconds:.0f} "
                    "s "
                    f"to see whether the trainer of job {segment.job} still runs"
                )
            if sign == "alive":
                why = f"the trainer of job {segment.job} is running. Type `duramen stop` first"
                return Answer("void", why)
        return await self.unsound(line, version)

    async def unsound(self, line: Line, version: int) -> Answer | None:
        """Return a refusal if no copy of the version can be read in full, or None if one can.

        Nobody is sent back to a version that cannot be read.
        """
        copies, name = self.vault.copies, version_name(version)
        wanted = edition.wanted(self.vault.table, line, version)
        try:
            commit = await asyncio.to_thread(
                catalog.read_commit_anywhere, copies, line.lineage, version, wanted
            )
        except NotFound as error:
            return Answer("void", str(error))
        if commit.aborted is not None:
            return Answer("void", f"{name} was aborted: {commit.aborted}")
        found = await asyncio.to_thread(
            checks.verify_version, copies, commit, catalog.encode(commit)
        )
        if not any(place.ok for place in found):
            return Answer("void", f"no copy of {name} is whole: {found[0].problems[0]}")
        return None

    def record(self, line: Line, command: Once) -> LineRollback:
        assert command.version is not None
        target = line.versions[command.version]
        return LineRollback(
            by=f"{self.vault.by} for {command.by}",
            prev=line.sequence,
            lineage=line.lineage,
            version=command.version,
            target=target,
            head=line.heads[target],
            void_segment=line.open_segment.id if line.open_segment else None,
            cause=command.nonce,
        )

    async def rolled_back(self, line: Line, version: int, sequence: int) -> Answer:
        """Move `latest`, then return the answer to a rollback that the ledger holds.

        Raises StoreUnavailable while `latest` cannot be moved.
        """
        if (line.lineage, version) not in self.vault.settled:
            await self.vault.read_catalogs(line)
        await self.vault.move_latest(line)
        if self.vault.latest_at.get(line.lineage, -1) < sequence:
            raise StoreUnavailable(f"latest of {line.lineage} cannot be moved yet")
        head = line.heads[line.versions[version]]
        receipt = RolledBack(
            lineage=line.lineage,
            version=version,
            ledger_sequence=sequence,
            global_step=head.global_step,
            checkpoint=head.checkpoint.id if head.checkpoint else None,
        )
        await self.vault.bus.event(Event.of("vault", receipt, lineage=line.lineage))
        name = version_name(version)
        return Answer("done", f"{line.lineage} and its latest version now point to {name}", receipt)
