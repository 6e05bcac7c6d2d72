"""The bus as a file and back, on real servers."""

from pathlib import Path

import pytest

from infra.compose import bus_backup
from infra.compose.host import HostRefused
from infra.servers.nats.backup import check_marks, pack_folder, sum_of, unpack_folder
from shared.bus.client import Bus
from shared.errors import BusWentBack, ObjectDamaged
from shared.protocol.events import Event
from shared.protocol.names import line_subject, line_wildcard
from shared.protocol.records import LineageSettings, LineCreate
from tests.stack import Stack

SUBJECT, WILDCARD = line_subject("main", "create"), line_wildcard("main")


def record() -> LineCreate:
    return LineCreate(by="test", lineage="main", settings=LineageSettings(base_root="ab" * 32))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


async def test_a_lost_bus_comes_back_with_every_record(own_stack: Stack, tmp_path: Path) -> None:
    state, archive = tmp_path / "state", tmp_path / "bus-1.tar"
    state.mkdir()
    at = own_stack.nats_url, own_stack.seed_file("ctl"), "ctl", state
    async with Bus(*at) as bus:
        first = await bus.append("JOBS", SUBJECT, WILDCARD, record(), 0)
        await bus.event(Event(service="ctl", kind="probe"))
    own_stack.stop("nats")
    before = contents(own_stack.home.nats)
    pack_folder(own_stack.home.nats, archive)
    (own_stack.home.nats / "jetstream").rename(tmp_path / "lost")
    unpack_folder(archive, own_stack.home.nats)
    assert contents(own_stack.home.nats) == before
    own_stack.start("nats")
    await check_marks(own_stack.nats_url, own_stack.secrets, [state])
    async with Bus(*at) as bus:
        assert [e.sequence async for e in bus.read("JOBS")] == [first]
        assert [e.subject async for e in bus.read("EVT")] == ["evt.ctl.probe"]
        # It takes new records behind them, from a client that remembers.
        assert await bus.append("JOBS", SUBJECT, WILDCARD, record(), first) == first + 1
    # An earlier day's bus lacks what was acknowledged since: said before a service finds out.
    own_stack.stop("nats")
    unpack_folder(archive, own_stack.home.nats)
    own_stack.start("nats")
    with pytest.raises(BusWentBack):
        await check_marks(own_stack.nats_url, own_stack.secrets, [state])


def test_a_damaged_file_replaces_nothing(tmp_path: Path) -> None:
    data, archive = tmp_path / "data", tmp_path / "bus-1.tar"
    data.mkdir()
    (data / "stream").write_bytes(b"old")
    pack_folder(data, archive)
    (data / "stream").write_bytes(b"new")
    broken = bytearray(archive.read_bytes())
    broken[600] ^= 1
    archive.write_bytes(broken)
    with pytest.raises(ObjectDamaged):
        unpack_folder(archive, data)
    sum_of(archive).unlink()
    with pytest.raises(FileNotFoundError):
        unpack_folder(archive, data)
    assert contents(data) == {"stream": b"new"}


def test_a_bus_that_ends_earlier_is_not_put_back() -> None:
    bus_backup.behind({"JOBS": 4, "CTL": 2}, {"JOBS": 4, "CTL": 3})
    bus_backup.behind({}, {"JOBS": 1})  # the bus of today was lost
    with pytest.raises(HostRefused, match="CTL ends at 0, not 2"):
        bus_backup.behind({"JOBS": 4, "CTL": 2}, {"JOBS": 4})


def test_the_newest_backup_is_chosen_and_a_missing_one_named(tmp_path: Path) -> None:
    for name in ("bus-1.tar", "bus-2.tar", "bus-3-replaced.tar"):
        (tmp_path / name).touch()
    assert bus_backup.find_backup(tmp_path, None).name == "bus-2.tar"
    assert bus_backup.find_backup(tmp_path, "bus-3-replaced.tar").name == "bus-3-replaced.tar"
    with pytest.raises(HostRefused, match=r"there: bus-1\.tar, bus-2\.tar"):
        bus_backup.find_backup(tmp_path, "bus-9.tar")
