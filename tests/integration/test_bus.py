"""Append, read and marks against a real server, also one that dies or goes back in time."""

import asyncio
import shutil
from pathlib import Path

import pytest

from shared.bus.client import Bus
from shared.errors import BusUnavailable, BusWentBack, Conflict
from shared.ledger.control import Control
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line
from shared.protocol.records import LineageSettings, LineCreate
from tests.services import House, until
from tests.stack import Stack

ROOT = "b" * 64


def record(lineage: str) -> LineCreate:
    return LineCreate(by="t", lineage=lineage, settings=LineageSettings(base_root=ROOT))


async def test_one_of_two_writers_wins(stack: Stack, lineage: str) -> None:
    house = House(stack)
    async with house.bus("ctl") as bus:
        writes = [Line(lineage).append(bus, "create", record(lineage)) for _ in range(8)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(isinstance(r, int) for r in results) == 1
        assert sum(isinstance(r, Conflict) for r in results) == 7
        table = Table()
        await table.update(bus)
        assert table.lines[lineage].settings is not None


async def test_reading_a_stream_gives_every_entry_once_in_sequence(
    stack: Stack, lineage: str
) -> None:
    house = House(stack)
    async with house.bus("ctl") as bus:
        first, last = await bus.bounds("CTL")
        control = Control("ingest")
        await control.update(bus)
        for number in range(23):
            await control.set_desired(bus, "paused" if number % 2 else "running", "t")
            await control.update(bus)
        found = [e.sequence async for e in bus.read("CTL", last, "ctl.desired.ingest", batch=7)]
        assert found == sorted(found)
        assert len(found) == 23
        assert first >= 0
        again = Control("ingest")
        await again.update(bus)
        assert (again.generation, again.state) == (control.generation, control.state)


async def test_a_command_on_an_old_state_is_refused(stack: Stack) -> None:
    house = House(stack)
    async with house.bus("ctl") as bus:
        mine, other = Control("evolution"), Control("evolution")
        await mine.update(bus)
        await other.update(bus)
        await mine.set_desired(bus, "paused", "t")
        with pytest.raises(Conflict):
            await other.set_desired(bus, "stopped", "t")
        await mine.update(bus)
        await mine.set_desired(bus, "running", "t")  # others start it on these servers


async def test_an_append_survives_the_death_of_the_server(own_stack: Stack) -> None:
    house = House(own_stack)
    async with house.bus("ctl") as bus:
        own_stack.kill("nats")
        append = asyncio.create_task(Line("main").append(bus, "create", record("main")))
        await asyncio.to_thread(own_stack.start, "nats")
        assert await append == 1


async def test_a_bus_that_went_back_in_time_stops_the_writer(
    own_stack: Stack, tmp_path: Path
) -> None:
    """The volume is replaced by an older copy of itself."""
    house, stack = House(own_stack), own_stack
    stack.stop("nats")
    shutil.copytree(stack.home.nats, tmp_path / "old", dirs_exist_ok=True)
    stack.start("nats")
    state = tmp_path / "state"
    state.mkdir()
    async with Bus(stack.nats_url, stack.seed_file("ctl"), "ctl", state) as bus:
        await Line("one").append(bus, "create", record("one"))
        stack.stop("nats")
        shutil.rmtree(stack.home.nats)
        shutil.copytree(tmp_path / "old", stack.home.nats)
        await asyncio.to_thread(stack.start, "nats")
        await until(lambda: _answers(bus), "reconnected")
        with pytest.raises(BusWentBack):
            await Line("two").append(bus, "create", record("two"))
    async with Bus(stack.nats_url, stack.seed_file("ctl"), "ctl", state) as bus:
        with pytest.raises(BusWentBack):  # a restart of the writer does not forget
            await Line("two").append(bus, "create", record("two"))
    async with house.bus("ctl") as fresh:
        assert await fresh.bounds("JOBS") == (1, 0) or (await fresh.bounds("JOBS"))[1] == 0


async def _answers(bus: Bus) -> bool:
    try:
        await bus.ping()
    except BusUnavailable:
        return False
    return True
