"""What the bus says lies in all places soon, whole and in order, wherever the vault was killed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.servers.bootstrap import provision_bus
from services.vault.copies import Copies
from services.vault.export.chain import Chain
from services.vault.export.exporter import Exporter
from services.vault.orphans import Orphans
from shared.bus.client import Bus
from shared.errors import StoreUnavailable
from shared.files import write_synced
from shared.formats.bus_export import BusExport, read_export
from shared.protocol.control import Once
from shared.protocol.events import Event
from shared.service.alarms import Alarms
from shared.store import layout
from shared.store.place import PRECIOUS, WORK
from tests.conftest import running_stack
from tests.stack import Stack
from tests.vault_history import VaultProcess


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Servers of this file: the export is of all that a bus holds."""
    with running_stack() as running:
        yield running


class Killed(BaseException):
    """The vault ends here, as by kill -9."""


class Export:
    """An exporter in this process, and what it left in the places."""

    def __init__(self, stack: Stack, bus: Bus, seal_seconds: float = 300.0) -> None:
        self.copies: Copies = VaultProcess(stack).copies()
        self.told: list[str] = []
        self.alarms = Alarms(self._tell)
        self.orphans = Orphans(self.copies)
        self.bus, self.chain = bus, Chain(self.copies)
        self.exporter = Exporter(bus, self.chain, self.alarms, self.orphans, seal_seconds)

    async def _tell(self, alarm: Any, _: str | None) -> None:
        self.told.append(f"{alarm.what} {alarm.about}")

    def files(self) -> list[BusExport]:
        """Return the chain, which is the same in all places and fits together."""
        held = [
            {key: place.read(PRECIOUS, key) for key in place.keys(PRECIOUS, layout.AUDIT)}
            for place in self.copies.places
        ]
        assert held[0] == held[1] == held[2]
        exports = [read_export(data) for _, data in sorted(held[0].items())]
        assert [each.header.number for each in exports] == list(range(1, len(exports) + 1))
        before = None
        for each in exports:
            assert each.header.previous == before
            before = each.sha256
        return exports

    def tail(self) -> BusExport:
        in_work = self.copies.store.read(WORK, layout.audit_tail())
        assert self.tail_file.read_bytes() == in_work
        return read_export(in_work)

    @property
    def tail_file(self) -> Path:
        return self.copies.archive.folder / layout.TAIL_IN_ARCHIVE

    async def said(self) -> list[tuple[str, int, bytes]]:
        """Return what the bus holds."""
        return [
            (stream, entry.sequence, entry.data)
            for stream in ("JOBS", "CTL", "EVT")
            async for entry in self.bus.read(stream)
        ]

    def exported(self) -> list[tuple[str, int, bytes]]:
        """Return what the chain holds, by stream and sequence."""
        found = [
            (record.stream, record.sequence, record.body)
            for export in self.files()
            for record in export.records
        ]
        order = ("JOBS", "CTL", "EVT")
        return sorted(found, key=lambda each: (order.index(each[0]), each[1]))


async def say(bus: Bus, count: int = 1) -> None:
    for _ in range(count):
        await bus.event(Event(service="vault", kind="probe"))


def vault_bus(stack: Stack) -> Bus:
    return Bus(stack.nats_url, stack.seed_file("vault"), "vault")


async def test_records_go_to_the_tail_and_then_to_a_file_in_all_places(stack: Stack) -> None:
    async with vault_bus(stack) as bus, Bus(stack.nats_url, stack.seed_file("ctl"), "ctl") as ctl:
        await say(bus, 2)
        command = Once(by="test", service="vault", command="snapshot")
        await ctl.append("CTL", "ctl.once.vault", "ctl.once.vault", command, 0)
        made = Export(stack, bus)
        await made.exporter.once()
        said = await made.said()
        assert made.files() == []
        assert [record.body for record in made.tail().records] == [body for _, _, body in said]
        sealing = Export(stack, bus, 0.0)
        await sealing.exporter.once()
        assert sealing.exported() == said
        (first,) = sealing.files()
        assert first.header.sealed_at is not None
        for _ in range(2):
            await sealing.exporter.once()  # nothing happens: no file
        assert len(sealing.files()) == 1
        await say(bus)
        await sealing.exporter.once()
        second = sealing.files()[1]
        assert second.header.marks == {**first.header.marks, "EVT": second.records[-1].mark}
        assert sealing.exported() == await made.said()
        assert sealing.told == made.told == []


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(5), ids=["tail", "work", "backup", "store", "archive"])
async def test_a_vault_that_is_killed_goes_on_exactly_there(
    stack: Stack, at: int, is_done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of a round: the tail in archive and `work`, the file in each of the places."""
    async with vault_bus(stack) as bus:
        dying = Export(stack, bus, 0.0)
        await dying.exporter.once()
        await say(bus, 2)
        left = [at]

        def killing(real: Any) -> Any:
            def write(*arguments: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] < 0 and not is_done:
                    raise Killed
                value = real(*arguments, **named)
                if left[0] < 0:
                    raise Killed
                return value

            return write

        monkeypatch.setattr(
            "services.vault.export.chain.write_synced",
            killing(write_synced),
        )
        copies = dying.copies
        for place in copies.places:
            monkeypatch.setattr(place, "create", killing(place.create))
        monkeypatch.setattr(copies.store, "put_bytes", killing(copies.store.put_bytes))
        with pytest.raises(Killed):
            await dying.exporter.once()
        monkeypatch.undo()
        await say(bus)
        again = Export(stack, bus, 0.0)
        await again.exporter.once()
        await again.exporter.once()
        assert again.exported() == await again.said()
        assert again.told == []


async def test_a_file_that_does_not_fit_is_alarmed_and_never_written_over(stack: Stack) -> None:
    async with vault_bus(stack) as bus:
        await say(bus)
        made = Export(stack, bus, 0.0)
        await made.exporter.once()
        number = len(made.files()) + 1
        path = made.copies.archive.folder / layout.audit_file(number)
        other = made.copies.archive.folder / layout.audit_file(number - 1)
        path.write_bytes(other.read_bytes())
        await say(bus)
        await made.exporter.once()
        assert made.told == ["export_chain None"]
        assert path.read_bytes() == other.read_bytes()
        path.unlink()
        await made.exporter.once()
        assert made.alarms.standing == {}
        assert made.exported() == await made.said()


async def test_an_archive_that_is_not_mounted_gets_no_file(stack: Stack) -> None:
    async with vault_bus(stack) as bus:
        await say(bus)
        made = Export(stack, bus, 0.0)
        await made.exporter.once()
        folder, away = made.copies.archive.folder, stack.home.root / "unmounted"
        for is_fresh in (False, True):
            folder.rename(away)
            folder.mkdir()
            try:
                await say(bus)
                again = Export(stack, bus, 0.0) if is_fresh else made
                with pytest.raises(StoreUnavailable):
                    await again.exporter.once()
                assert list(folder.iterdir()) == []
            finally:
                folder.rmdir()
                away.rename(folder)
        await made.exporter.once()
        assert made.exported() == await made.said()


async def test_a_bus_that_went_back_is_told_and_what_was_exported_stays(stack: Stack) -> None:
    async with vault_bus(stack) as bus:
        made = Export(stack, bus)
        await say(bus)
        await made.exporter.once()
    files, tail = made.files(), made.tail()
    stack.stop("nats")
    shutil.rmtree(stack.home.nats)
    stack.home.nats.mkdir()
    stack.start("nats")
    await provision_bus(stack.nats_url, stack.secrets)
    async with vault_bus(stack) as bus:
        again = Export(stack, bus, 0.0)
        await say(bus, 3)
        for _ in range(2):
            await again.exporter.once()
        (told,) = again.told
        assert told.startswith("bus_went_back")
        assert again.orphans.bus_went_back
        assert (again.files(), again.tail()) == (files, tail)
