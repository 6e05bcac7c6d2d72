"""What goes wrong around a trainer: each says why and what to do, and nothing is lost."""

import json
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from services.trainer.supervisor import work_bucket
from services.trainer.supervisor.local_files import SegmentFolder
from shared.formats.checkpoint import ADAPTER, OPTIMIZER
from shared.ledger.control import Control, observed
from shared.ledger.lineage import Segment
from shared.protocol.control import Once
from shared.protocol.names import JobId
from shared.protocol.observed import Observed
from shared.store.place import PRECIOUS, WORK
from shared.store.s3 import Store
from tests.integration.test_trainer import SLOW_STEPS, set_state
from tests.services import House, until
from tests.stack import Stack
from tests.tiny import shared_tiny, tiny_conversations
from tests.unit.test_checkpoint import write
from tests.unit.test_preparing import opened

LONG: dict[str, Any] = {"batch_tokens": 128, "epochs": 60}


async def until_seen(house: House, wanted: Any, what: str) -> Observed:
    """What the trainer shows, once it is as wanted."""
    async with house.bus("ctl") as bus:

        async def look() -> Observed | None:
            seen = await observed(bus, "trainer")
            return seen if seen is not None and wanted(seen) else None

        return await until(look, what)


def says_it(seen: Observed) -> bool:
    return "the store has not answered since" in (seen.waits_for or "")


async def alarms(house: House) -> list[str]:
    async with house.bus("ctl") as bus:
        found = [e async for e in bus.read("EVT", 0, "evt.trainer.alarm")]
    return [str(json.loads(e.data)["data"]["what"]) for e in found]


async def test_a_store_that_is_away_hinders_no_training_no_pause_and_no_end(house: House) -> None:
    await house.create("main", house.add_base())
    job = await house.submit("main", tiny_conversations(30), **LONG)
    quick = {"DURAMEN_CHECKPOINT_SECONDS": "0.2", "DURAMEN_STORE_AWAY_SECONDS": "1"}
    with house.service("trainer", **quick) as trainer:
        await house.until_step(2)
        house.stack.kill("store")
        away = await until_seen(house, says_it, "the outage is said")
        assert away.state == "running"
        assert away.progress is not None
        await house.until_step(away.progress.position + 3)
        paused = await set_state(house, "paused")
        assert trainer.children() == []
        assert not paused.read_back
        assert says_it(paused)
        assert paused.checkpoint is not None
        assert paused.checkpoint.position >= away.progress.position + 3
        resumed = await set_state(house, "running")
        await house.until_step(paused.checkpoint.position + 2)
        os.kill(await trainer.worker(), signal.SIGKILL)
        further = paused.checkpoint.position + 4

        def trains_again(seen: Observed) -> bool:
            is_new = seen.fence != resumed.fence
            return is_new and seen.progress is not None and seen.progress.position >= further

        await until_seen(house, trains_again, "another worker trains on")
        paused = await set_state(house, "paused")
        assert not paused.read_back
        assert says_it(paused)
        assert paused.checkpoint is not None
        assert paused.checkpoint.position >= further
        house.stack.start("store")
        whole = await until_seen(house, lambda s: s.read_back, "the pause is whole")
        assert (whole.state, whole.checkpoint) == ("paused", paused.checkpoint)
        assert not whole.waiting
        assert await alarms(house) == ["store_away"]
        await set_state(house, "running")
        await house.until_step(paused.checkpoint.position + 1)
        house.stack.kill("store")

        async def ended() -> bool:
            return trainer.children() == []

        await until(ended, "the job's worker ends")
        waiting = await until_seen(house, says_it, "the end waits for the store, and says so")
        assert waiting.job == job.path
        assert (await set_state(house, "paused")).state == "paused"
        house.stack.start("store")
        table = await house.until_state(job, "done")
    (segment,) = table.lines["main"].kept()
    assert segment.closed is not None
    close = segment.closed
    assert (close.outcome, close.version, close.from_position) == ("done", 1, 0)
    assert close.to_position == table.jobs[job].record.steps
    assert close.result is not None
    store = house.store("trainer")
    files = {e["path"]: e for e in json.loads(store.read(WORK, close.result.key))["files"]}
    lines = store.read(WORK, files["metrics.jsonl"]["key"]).splitlines()
    steps = [line["position"] for line in map(json.loads, lines) if "rows" in line]
    assert steps == list(range(1, close.to_position + 1))
    assert any(path.startswith(f"evolution/{close.to_step:08d}-") for path in files)


async def test_a_job_waits_while_the_disk_is_full_and_goes_on_by_itself(house: House) -> None:
    await house.create("main", house.add_base())
    job = await house.submit("main", tiny_conversations(30), **SLOW_STEPS)
    with house.service("trainer", DURAMEN_CHECKPOINT_SECONDS="0.2") as trainer:
        await until_seen(house, lambda s: s.checkpoint is not None, "a checkpoint is stored")
        worker = await trainer.worker()
        _, hard = resource.prlimit(worker, resource.RLIMIT_FSIZE)
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (1, hard))
        await until_seen(house, lambda s: "there was no space in" in str(s.waits_for), "it waits")
        table = await house.until_state(job, "done")
    first, last = (s.closed for s in table.lines["main"].kept() if s.closed)
    assert (first.outcome, first.failure) == ("preempted", None)
    assert 0 < first.to_position == last.from_position
    assert last.to_position == table.jobs[job].record.steps
    assert "disk_full" in await alarms(house)


async def test_a_head_that_is_damaged_everywhere_waits_and_the_other_lineages_go_on(
    house: House,
) -> None:
    root = house.add_base()
    await house.create("main", root)
    await house.create("other", root)
    first = await house.submit("main", tiny_conversations(8))
    with house.service("trainer"):
        table = await house.until_state(first, "done")
    head = table.lines["main"].head
    assert head is not None
    assert head.checkpoint is not None
    damage(house.store("trainer"), f"{head.checkpoint.prefix}/{OPTIMIZER}")
    shutil.rmtree(Path(house.stack.env("trainer")["DURAMEN_STATE_DIR"]) / "segments")
    held_up = await house.submit("main", tiny_conversations(8, start=50))
    free = await house.submit("other", tiny_conversations(8))
    with house.service("trainer"):
        table = await house.until_state(free, "done")
        seen = await until_seen(house, lambda s: bool(s.waiting), "the lineage waits")
    assert "duramen rollback" in (seen.waits_for or "")
    assert table.jobs[held_up].record.state == "queued"
    assert table.lines["main"].head == head
    assert "head_unusable" in await alarms(house)


async def test_stop_and_skip_wait_for_a_store_that_is_away_and_then_do_what_was_asked(
    house: House,
) -> None:
    await house.create("main", house.add_base())
    job = await house.submit("main", tiny_conversations(30), **LONG)
    with house.service("trainer", DURAMEN_CHECKPOINT_SECONDS="0.2") as trainer:
        await house.until_step(2)
        house.stack.kill("store")
        async with house.bus("ctl") as bus:
            control = Control("trainer")
            await control.update(bus)
            await control.set_desired(bus, "stopped", "test")

        async def ended() -> bool:
            return trainer.children() == []

        await until(ended, "the worker ends without the store")
        house.stack.start("store")
        table = await house.until_state(job, "queued")
        head = table.lines["main"].head
        assert head is not None
        assert head.global_step >= 2
        (segment,) = table.lines["main"].kept()
        assert segment.closed is not None
        assert (segment.closed.outcome, segment.closed.to_step) == ("stopped", head.global_step)
        await set_state(house, "running")
        await house.until_step(head.global_step + 2)
        house.stack.kill("store")
        async with house.bus("ctl") as bus:
            await table.update(bus)
            open_ = table.lines["main"].open_segment
            assert open_ is not None
            await control.update(bus)
            once = Once(by="test", service="trainer", command="skip", segment=open_.id)
            await control.ask_once(bus, once)
        await until(ended, "the skipped worker ends without the store")
        house.stack.start("store")
        table = await house.until_state(job, "skipped")
    assert table.lines["main"].head == head


async def test_a_damaged_checkpoint_is_taken_out_of_its_version(house: House) -> None:
    await house.create("main", house.add_base())
    first = await house.submit("main", tiny_conversations(8))
    with house.service("vault"), house.service("trainer"):
        table = await house.until_state(first, "done")
        line = table.lines["main"]
        store = house.store("trainer")

        async def published() -> bool:
            return bool(list(store.keys(PRECIOUS, "catalog/main/v001.json")))

        await until(published, "v001 is published")
    assert line.head is not None
    checkpoint = line.head.checkpoint
    assert checkpoint is not None
    damage(store, f"{checkpoint.prefix}/{OPTIMIZER}")
    shutil.rmtree(Path(house.stack.env("trainer")["DURAMEN_STATE_DIR"]) / "segments")
    second = await house.submit("main", tiny_conversations(8, start=50))
    with house.service("trainer"):
        table = await house.until_state(second, "done")
    last = table.lines["main"].kept()[-1]
    assert last.record.checkpoint == checkpoint
    assert table.lines["main"].versions.keys() == {1, 2}


async def test_where_a_base_cannot_be_trained_one_job_fails_and_the_others_wait(
    house: House, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(shared_tiny(), broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "nobody_knows"}))
    await house.create("main", house.add_base(broken))
    first = await house.submit("main", tiny_conversations(8))
    second = await house.submit("main", tiny_conversations(8, start=50))
    with house.service("trainer"):
        table = await house.until_state(first, "failed")
        failure = table.jobs[first].record.failure
        assert failure is not None
        assert (failure.kind, "nobody_knows" in failure.message) == ("base", True)
        seen = await until_seen(house, lambda s: bool(s.waiting), "the other one waits")
        assert f"duramen queue retry {first}" in (seen.waits_for or "")
        async with house.bus("ctl") as bus:
            await table.update(bus)
            assert table.jobs[second].record.state == "queued"
            await table.write(bus, table.jobs[first], "retry", "test")

            async def tried_again() -> bool:
                await table.update(bus)
                ended = [s for s in table.lines["main"].segments.values() if s.closed]
                return len(ended) == 2

            await until(tried_again, "it is tried again")
            assert table.jobs[second].record.state == "queued"


def damage(store: Store, key: str) -> None:
    data = store.read(WORK, key)
    store.put_bytes(WORK, key, data[:-1] + bytes([data[-1] ^ 1]))


@pytest.fixture
def segment(lineage: str) -> Segment:
    job = JobId(lineage, "cd" * 32, 1)
    return Segment("ab" * 6, job, 0, [(7, opened(job, "ab" * 6))])


def test_a_damaged_upload_is_passed_over_for_the_one_before(
    stack: Stack, segment: Segment, tmp_path: Path
) -> None:
    store, folder = House(stack).store("trainer"), SegmentFolder(tmp_path).make()
    lineage = segment.job.lineage
    paths = [write(folder.checkpoints, step, segment=segment.id) for step in (3, 4)]
    before, newest = (work_bucket.put_checkpoint(store, lineage, path) for path in paths)
    damage(store, f"{newest.prefix}/{ADAPTER}")
    # This disk still has it.
    assert work_bucket.newest_checkpoint(store, segment, folder) == work_bucket.Found(
        newest, paths[1], True
    )
    # This one as well is damaged: another host's view, and what a restart finds.
    (paths[1] / ADAPTER).write_bytes(b"")
    assert work_bucket.newest_checkpoint(store, segment, folder) == work_bucket.Found(
        before, paths[0], True
    )
    empty = SegmentFolder(tmp_path / "elsewhere").make()
    assert work_bucket.newest_checkpoint(store, segment, empty) == work_bucket.Found(
        before, None, True
    )
    damage(store, f"{before.prefix}/{ADAPTER}")
    assert work_bucket.newest_checkpoint(store, segment, empty) is None
