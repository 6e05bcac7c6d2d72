"""Disks as a budget: how places are measured, who uses them, and what is said of a full one."""

import asyncio
import errno
import os
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from services.ctl.commands.disk import (
    HOW_TO_FREE,
    cost_of_base,
    disk_notes,
    disk_row,
    no_room_for_base,
)
from services.ctl.commands.doctor import looks_at_disks
from services.ctl.troubles import filling_disks, full_disks, places_of
from services.evolution.cache import Cache
from services.ingest.inbox.disks import inbox_uses
from services.trainer.supervisor.local_files import Local, use_of
from services.vault.__main__ import of_streams
from shared.errors import DiskFull
from shared.look import Look
from shared.progress import Loop
from shared.protocol.observed import DiskSeen, Observed
from shared.service import loop
from shared.service.disks import Disks, MeasuredDisk

MIB, GIB, GB = 1 << 20, 1 << 30, 10**9
ROOMY = DiskSeen(place="store", folder="/s", free=50 * GB, total=99 * GB, reserve=GB, device=7)


def seen(place: str, **changes: object) -> DiskSeen:
    return ROOMY.model_copy(update={"place": place, "folder": f"/{place}", **changes})


def test_a_place_is_measured_and_one_that_nobody_can_ask_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * MIB)
    here = MeasuredDisk("archive", tmp_path, "t", lambda: {"versions": 5})
    gone = MeasuredDisk("backup", tmp_path / "gone", "u")
    elsewhere = MeasuredDisk("store", None, "v")
    measured = Disks(3, here, gone, elsewhere)
    here.recount()
    first, *others = measured.look()
    assert (first.folder, first.reserve, first.uses) == (str(tmp_path), 3, {"versions": 5})
    assert first.free is not None
    assert first.total is not None
    assert 0 < first.free < first.total
    assert [(each.free, each.total, each.folder) for each in others] == [(None, None, "")] * 2
    assert measured.shortage("archive", 1) is None
    said = measured.shortage("archive", first.total) or ""
    assert said.startswith("archive: no space for ")
    assert said.endswith(": duramen disk")
    assert measured.shortage("backup", first.total) is None  # unknown is neither short nor ok
    assert measured.shortage("nowhere", first.total) is None


@pytest.mark.parametrize(
    ("history", "seconds"),
    [
        ([(0.0, 100), (3599.0, 50)], None),  # too short a time to tell
        ([(0.0, 100), (3600.0, 50)], 3600.0),
        ([(0.0, 100), (300.0, 10), (5000.0, 80)], 20000.0),
        ([(0.0, 100), (5000.0, 100)], None),
        ([(0.0, 100), (5000.0, 120)], None),
        ([(0.0, 900), (18000.0, 100), (22000.0, 50)], 4000.0),  # what is old is forgotten
    ],
)
def test_when_a_disk_is_full_is_told_by_the_rate_of_the_last_hours(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    history: list[tuple[float, int]],
    seconds: float | None,
) -> None:
    place = MeasuredDisk("bus", tmp_path, "w")
    for now, free in history:
        usage = type("Usage", (), {"free": free, "total": 1000})
        monkeypatch.setattr("shared.service.disks.shutil.disk_usage", lambda _, found=usage: found)
        shown = place.look(0, now)
    assert shown.full_seconds == seconds


def test_what_cannot_be_counted_keeps_what_was_counted_before(tmp_path: Path) -> None:
    answers = iter([{"bases": 3}])
    place = MeasuredDisk("store", tmp_path, "x", lambda: next(answers, None) or fails())
    place.recount()
    place.recount()
    assert place.uses == {"bases": 3}


def fails() -> dict[str, int]:
    raise OSError(errno.EIO, "gone")


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        (seen("inbox"), []),
        (seen("store", free=None, total=None), []),
        (
            seen("archive", free=4 * 10**6),
            [
                (
                    "no space for the archive: 4.0 MB free in /archive, 1.0 GB must stay free; "
                    "what needs more waits"
                )
            ],
        ),
        (seen("bus", full_seconds=7200.0), []),
        (
            seen("inbox", freeable={"done": 2 * GB}),
            [
                (
                    "inbox/done is 2.0 GB above DURAMEN_DONE_LIMIT_BYTES; "
                    "nothing in it is deleted for you"
                )
            ],
        ),
    ],
)
def test_status_names_what_is_full_or_soon_will_be(disk: DiskSeen, said: list[str]) -> None:
    found = list(full_disks([disk]))
    assert [trouble.said for trouble in found] == said
    assert {trouble.next_step for trouble in found} <= {"duramen disk"}


def test_a_disk_that_fills_is_named_and_is_not_a_fault_yet() -> None:
    disks = [seen("bus", full_seconds=7200.0), seen("inbox", full_seconds=86401.0), seen("store")]
    text = "the disk of the bus will be full in 2h 0m at the rate of the last hours: duramen disk"
    assert list(filling_disks(disks)) == [text]
    assert Look("disk", None, text) in looks_at_disks(disks)


def test_what_a_silent_service_measured_is_unknown() -> None:
    said = Observed(service="vault", instance="vault", state="idle", disks=[seen("bus")])
    old = said.model_copy(update={"at": said.at - timedelta(seconds=60)})
    assert [each.free for each in places_of({"vault": {"vault": said}})] == [50 * GB]
    assert [each.free for each in places_of({"vault": {"vault": old}})] == [None]


def test_doctor_calls_well_only_what_was_measured_and_has_room() -> None:
    looks = looks_at_disks([seen("bus"), seen("store", free=None), seen("inbox", free=3)])
    assert [(look.what, look.ok) for look in looks] == [("disk bus", True), ("disk store", None)]
    assert "unknown" in looks[1].found


def test_the_table_names_who_uses_a_place_and_what_lies_on_one_disk_several_times() -> None:
    base = {"bases": 269 * 10**6}
    places = [
        seen("store", uses={**base, "work/checkpoints": 970 * 10**6, "versions": 0}),
        seen("backup", uses=base),
        seen("trainer", uses=base, freeable={"fetched files": 10**6}),
        seen("archive", uses=base, device=8, free=10**6),
        seen("bus", device=None, free=None, total=None),
    ]
    rows = [disk_row(place) for place in places]
    assert rows[0] == [
        "store",
        "50.0 GB",
        "99.0 GB",
        "",
        "work/checkpoints 970.0 MB, bases 269.0 MB",
    ]
    assert rows[3][1] == "1.0 MB FULL"
    assert rows[4][1:3] == ["unknown", "unknown"]
    assert disk_notes(places) == [
        f"trainer: 1.0 MB of fetched files can be freed: {HOW_TO_FREE['fetched files']}",
        "one disk holds store, backup, trainer",
        "bases lie 3 times on it, 807.0 MB: store 269.0 MB, backup 269.0 MB, trainer 269.0 MB",
    ]


def test_a_base_tells_its_bytes_and_is_refused_before_anything_is_stored() -> None:
    assert "16.0 GB: the base will lie in store, backup and archive" in cost_of_base(16 * GB)
    assert "64.0 GB" in cost_of_base(16 * GB)
    places = [seen("store"), seen("backup"), seen("archive", free=None), seen("inbox", free=0)]
    assert no_room_for_base(places, 16 * GB) == []
    assert no_room_for_base(places, 25 * GB) == [
        "the store has no room for 50.0 GB (50.0 GB free, 1.0 GB must stay free)"
    ]


def test_who_uses_inbox_trainer_and_bus_is_told_by_the_place_of_a_file(tmp_path: Path) -> None:
    for name in ("a.jsonl", "@x/b.jsonl", "done/c.jsonl", "rejected/d.jsonl"):
        path = tmp_path / "inbox" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 4096)
    inbox = MeasuredDisk(
        "inbox", tmp_path, "y", lambda: inbox_uses(tmp_path / "inbox"), {"done": 1}
    )
    inbox.recount()
    assert inbox.uses.keys() == {"waiting", "done", "rejected"}
    assert inbox.look(0, 0.0).freeable == {"done": inbox.uses["done"] - 1}
    expected = {
        "cache/bases/ab/model.safetensors": "bases",
        "cache/checkpoints/x/header.json": "checkpoints",
        "cache/datasets/x.jsonl": "fetched files",
        "segments/main/ab/checkpoints/x/header.json": "checkpoints",
        "segments/main/ab/snapshots/x.parquet": "snapshots",
        "segments/main/ab/metrics.jsonl": "logs and plans",
        "dtype.json": "state",
    }
    assert {name: use_of(Path(name).parts) for name in expected} == expected
    stream = tmp_path / "nats/jetstream/$G/streams/JOBS/msgs/1.blk"
    stream.parent.mkdir(parents=True)
    stream.write_bytes(b"x" * 4096)
    assert of_streams(tmp_path / "nats").keys() == {"JOBS"}


def test_the_cache_keeps_only_the_bases_of_jobs_that_wait_or_run(tmp_path: Path) -> None:
    local = Local(tmp_path, store=None)  # type: ignore[arg-type]
    for root in ("needed", "not", "shown", ".half.12.tmp", ".old.doomed"):
        folder = tmp_path / "cache/bases" / root
        folder.mkdir(parents=True)
        os.utime(folder, (1, 1))
    assert local.base("shown").name == "shown"  # by a command, for no job
    local.prune_bases({"needed"})
    left = {folder.name for folder in (tmp_path / "cache/bases").iterdir()}
    assert left == {"needed", "shown", ".half.12.tmp"}


def test_a_full_disk_ends_no_loop_and_no_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "evolution.sqlite")
    with cache.open() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    connect = sqlite3.connect

    def small(*arguments: object, **options: object) -> sqlite3.Connection:
        made = connect(*arguments, **options)  # type: ignore[call-overload]
        made.execute(f"PRAGMA max_page_count = {pages}")
        return made  # type: ignore[no-any-return]

    async def enters() -> None:
        cache.name_hash("k" * 100_000, "ab" * 32, by_result=False)

    async def writes() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("services.evolution.cache.sqlite3.connect", small)
    with pytest.raises(DiskFull, match="database or disk is full: duramen disk"):
        cache.name_hash("k" * 100_000, "ab" * 32, by_result=False)
    for once in (enters, writes):
        has_failed = asyncio.run(loop.one_round(Loop("test"), once, None))
        assert not has_failed  # it waits, and is tried again as soon as ever
