"""Readers that are brought less than a stream holds, as by a server of a cluster that lags."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from shared.bus import client as module
from shared.bus.client import Bus
from shared.bus.entry import Entry
from shared.errors import BusUnavailable
from shared.ledger.control import Control
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line
from shared.protocol.names import line_subject, line_wildcard
from shared.protocol.records import LineageSettings, LineCreate
from tests.conftest import running_stack
from tests.stack import Stack

ROOT = "b" * 64


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Servers of these tests alone: they pause and stop services that other tests start."""
    with running_stack() as running:
        yield running


class Lagging(Bus):
    """A connection whose every other read ends early: `brings` entries come, the rest does not."""

    brings = 0
    reads = 0

    async def read(
        self, stream: str, after: int = 0, subject: str | None = None, batch: int = 1000
    ) -> AsyncIterator[Entry]:
        self.reads += 1
        found = [entry async for entry in super().read(stream, after, subject, batch)]
        for entry in found[: self.brings] if self.reads % 2 else found:
            yield entry


def lagging(stack: Stack, service: str = "ctl") -> Lagging:
    return Lagging(stack.nats_url, stack.seed_file(service), service)


def create(lineage: str) -> LineCreate:
    return LineCreate(by="t", lineage=lineage, settings=LineageSettings(base_root=ROOT))


@pytest.mark.parametrize("brings", [0, 1])
async def test_a_service_hears_every_command_where_reads_are_short(
    stack: Stack, brings: int
) -> None:
    async with lagging(stack) as writer, lagging(stack, "trainer") as reader:
        reader.brings = brings
        writing, reading = Control("trainer"), Control("trainer")
        await writing.update(writer)
        for number in range(6):
            await writing.set_desired(writer, "paused" if number % 2 else "running", "t")
            await writing.update(writer)
            await reading.update(reader)
            assert (reading.generation, reading.state) == (writing.generation, writing.state)
        assert not reading.voids
        _, last = await reader.bounds("CTL")
        assert reading.seen == writing.seen == last


async def test_one_of_all_commands_is_taken_by_its_service_alone(stack: Stack) -> None:
    async with lagging(stack) as bus:
        mine, other = Control("ingest"), Control("evolution")
        await mine.update(bus)
        await other.update(bus)
        before = other.generation
        await mine.set_desired(bus, "stopped", "t")
        await asyncio.gather(mine.update(bus), other.update(bus))
        assert (mine.state, other.generation) == ("stopped", before)
        assert mine.seen == other.seen


async def test_what_was_just_written_is_in_the_table(stack: Stack, lineage: str) -> None:
    async with lagging(stack) as bus:
        table = Table()
        await Line(lineage).append(bus, "create", create(lineage))
        await table.update(bus)
        _, last = await bus.bounds("JOBS")
        assert table.seen == last
        assert table.lines[lineage].settings is not None


async def test_ones_own_record_is_found_although_another_came_behind_it(
    stack: Stack, lineage: str
) -> None:
    """The acknowledgement was lost, somebody wrote since, and the read behind it is short."""
    async with lagging(stack) as bus:
        mine = create(lineage)
        at = await Line(lineage).append(bus, "create", mine)
        second = mine.model_copy(update={"nonce": "0" * 32, "prev": at})
        subjects = line_subject(lineage, "create"), line_wildcard(lineage)
        await bus.append("JOBS", *subjects, second, at)
        bus.reads = 0
        assert await Line(lineage).append(bus, "create", mine) == at


async def test_an_empty_stream_has_nothing_to_wait_for(own_stack: Stack) -> None:
    async with lagging(own_stack) as bus:
        assert [entry async for entry in bus.read_through("JOBS", 0, 100)] == []


async def test_a_server_that_never_catches_up_is_said_to_be_away(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CATCH_UP_SECONDS", 0.2)
    async with lagging(stack) as bus:
        await Control("ingest").update(bus)
        control = Control("vault")
        await control.update(bus)
        await control.set_desired(bus, "paused", "t")
        _, last = await bus.bounds("CTL")

        class Deaf(Lagging):
            async def read(self, *_: Any, **__: Any) -> AsyncIterator[Entry]:
                nothing: list[Entry] = []
                for entry in nothing:
                    yield entry

        async with Deaf(stack.nats_url, stack.seed_file("ctl"), "ctl") as deaf:
            with pytest.raises(BusUnavailable, match=f"ends at {last} and could be read to"):
                await control.update(deaf)
            assert control.seen < last
        await control.update(bus)
        assert (control.state, control.seen) == ("paused", last)
