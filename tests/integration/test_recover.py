"""A bus that was lost or set back comes back from any one place, each record under its number."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.servers.bootstrap import provision_bus
from infra.servers.recovery import rebuild
from infra.servers.recovery.recover import Recovery, RecoveryPlan
from infra.servers.recovery.source import NotRecoverable, longest, read_source
from infra.servers.streams import RecoveryUnfinished
from shared.bus.client import Bus
from shared.formats.bus_export import ExportHeader, pack_export
from shared.ledger.control import Control
from shared.ledger.jobs import Table
from shared.store.folder import Folder
from shared.store.place import ReadPlace
from tests.conftest import running_stack
from tests.integration.test_export import Export, say, vault_bus
from tests.stack import Stack
from tests.vault_history import Forge


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack() as running:
        yield running


async def lose_bus(stack: Stack) -> None:
    stack.stop("nats")
    shutil.rmtree(stack.home.nats)
    stack.home.nats.mkdir()
    stack.start("nats")
    await provision_bus(stack.nats_url, stack.secrets)


def places_of(stack: Stack, bus: Bus, name: str) -> list[ReadPlace]:
    copies = Export(stack, bus).copies
    if name == "folder":
        return [Folder("archive", stack.home.archive)]
    return [place for place in copies.places if name in (place.name, "all")]


async def folded(stack: Stack) -> tuple[dict[str, Any], list[tuple[str, str, int]], Any]:
    """Return lineages with settings, jobs with states in queue order, and the wish of the user."""
    async with vault_bus(stack) as bus:
        table, control = await Table.of(bus), Control("vault")
        await control.update(bus)
    jobs = sorted(table.jobs.values(), key=lambda job: job.order)
    lines = {
        name: (line.settings, line.heads, line.versions, line.sequence, line.open_segment)
        for name, line in table.lines.items()
    }
    assert not table.voids
    return lines, [(job.id.path, job.record.state, job.sequence) for job in jobs], control.once


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass over few numbers: each is a message that the bus syncs."""
    monkeypatch.setattr(rebuild, "PASSED_OVER", 5)


async def recovered(stack: Stack, bus: Bus, name: str, kept: Path, *marks: Path) -> RecoveryPlan:
    recovery = Recovery(stack.nats_url, stack.secrets, marks)
    plan = await recovery.plan(places_of(stack, bus, name))
    assert plan is not None
    await recovery.carry_out(plan, kept)
    assert await recovery.plan(places_of(stack, bus, name)) is None
    await provision_bus(stack.nats_url, stack.secrets)
    return plan


@pytest.mark.parametrize("name", ["store", "backup", "folder"])
async def test_all_comes_back_under_its_number_and_new_numbers_lie_above(
    stack: Stack, lineage: str, name: str, tmp_path: Path
) -> None:
    forge = await Forge(stack, lineage).begin()
    await forge.train()
    await forge.submit(2)
    async with vault_bus(stack) as bus:
        await say(bus)
        await Export(stack, bus, 0.0).exporter.once()
        said = await Export(stack, bus).said()
    before = await folded(stack)
    await lose_bus(stack)
    last = max(sequence for stream, sequence, _ in said if stream == "JOBS")
    folder = tmp_path / "trainer"
    remembered = Bus(stack.nats_url, stack.seed_file("trainer"), "trainer", folder)
    remembered.marks.note("JOBS", last + 7, "which the lost bus took")
    async with vault_bus(stack) as bus:
        await say(bus, 2)
        plan = await recovered(stack, bus, name, tmp_path / "kept", folder)
        assert f"trainer had record {last + 7} of JOBS confirmed" in plan.lost
        assert len((tmp_path / "kept").read_text().splitlines()) == 2
        found = await Export(stack, bus).said()
        assert [each for each in found if each in said] == said
        assert await folded(stack) == before
        async with remembered:
            await remembered.check_marks()
        assert "JOBS" not in remembered.marks.marks
        _, record = await Forge(stack, lineage, forge.root).submit(1)
        assert record.state == "queued"
        exporting = Export(stack, bus, 0.0)
        await exporting.exporter.once()
        assert exporting.told == []
        assert exporting.files()[-1].header.marks["JOBS"].last > last + 7


async def test_a_bus_that_was_set_back_and_a_recovery_that_was_cut_off(
    stack: Stack, lineage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = await Forge(stack, lineage).begin()
    async with vault_bus(stack) as bus:
        await Export(stack, bus, 0.0).exporter.once()
    stack.stop("nats")
    shutil.copytree(stack.home.nats, tmp_path / "nats")
    stack.start("nats")
    await forge.submit(1)
    async with vault_bus(stack) as bus:
        await Export(stack, bus, 0.0).exporter.once()
    before = await folded(stack)
    stack.stop("nats")
    shutil.rmtree(stack.home.nats)
    shutil.copytree(tmp_path / "nats", stack.home.nats)
    stack.start("nats")
    async with vault_bus(stack) as bus:
        exporting = Export(stack, bus)
        await exporting.exporter.once()
        assert exporting.told == ["bus_went_back JOBS"]
        with monkeypatch.context() as cut:
            cut.setattr(rebuild.StreamBuilder, "finish", None)
            with pytest.raises(TypeError):
                await recovered(stack, bus, "backup", tmp_path / "kept")
        with pytest.raises(RecoveryUnfinished):
            await provision_bus(stack.nats_url, stack.secrets)
        await recovered(stack, bus, "backup", tmp_path / "kept")
    assert await folded(stack) == before


async def test_without_an_export_and_with_two_nothing_is_done(stack: Stack, tmp_path: Path) -> None:
    async with vault_bus(stack) as bus:
        await say(bus)
        await Export(stack, bus, 0.0).exporter.once()
    copy = tmp_path / "other"
    shutil.copytree(stack.home.archive / "audit", copy / "audit")
    (copy / "audit" / "00000001.jsonl.gz").chmod(0o644)
    header = ExportHeader(number=1, previous=None, marks={}, records=0, sealed_at=None)
    (copy / "audit" / "00000001.jsonl.gz").write_bytes(pack_export(header, []))
    broken = read_source(Folder("archive", copy))
    assert broken.broken == "audit/00000002.jsonl.gz does not follow the file before it"
    with pytest.raises(NotRecoverable, match="hold different exports"):
        longest([read_source(Folder("archive", stack.home.archive)), broken])
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotRecoverable, match="before there was one"):
        longest([read_source(Folder("archive", tmp_path / "empty"))])
