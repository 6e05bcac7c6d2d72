"""The trainer as a process on real servers: trains, obeys, and survives what kills it."""

import json
import os
import signal
from typing import Any

from shared.formats.checkpoint import HEADER
from shared.ledger.control import Control, observed
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line
from shared.protocol.control import Once
from shared.protocol.names import JobId
from shared.protocol.observed import Observed
from shared.store.place import WORK
from tests.services import House, until
from tests.tiny import tiny_conversations

SLOW_STEPS: dict[str, Any] = {"batch_tokens": 64, "epochs": 6}


def adapter_hash(house: House, line: Line) -> str:
    """The hash over the tensors of the head's adapter, as stored."""
    assert line.head is not None
    assert line.head.checkpoint is not None
    data = house.store("trainer").read(WORK, f"{line.head.checkpoint.prefix}/{HEADER}")
    return str(json.loads(data)["tensors"]["adapter"])


async def train_undisturbed(house: House, root: str, lineage: str, rows: int) -> str:
    await house.create(lineage, root, dropout=0.05)
    job = await house.submit(lineage, tiny_conversations(rows), **SLOW_STEPS)
    table = await house.until_state(job, "done")
    return adapter_hash(house, table.lines[lineage])


async def set_state(house: House, state: str) -> Observed:
    """Ask for a state and wait until it is observed."""
    async with house.bus("ctl") as bus:
        control = Control("trainer")
        await control.update(bus)
        generation = await control.set_desired(bus, state, "test")  # type: ignore[arg-type]

        async def look() -> Observed | None:
            seen = await observed(bus, "trainer")
            right = seen is not None and seen.generation >= generation
            return seen if right and seen and seen.state in (state, "idle") else None

        return await until(look, state)


async def test_a_job_becomes_a_numbered_version_and_the_next_file_adds_its_steps(
    house: House,
) -> None:
    await house.create("main", house.add_base())
    first = await house.submit("main", tiny_conversations(12))
    second = await house.submit("main", tiny_conversations(12, start=100))
    with house.service("trainer"):
        await house.until_state(first, "done")
        table = await house.until_state(second, "done")
    line = table.lines["main"]
    closes = [s.closed for s in line.kept() if s.closed]
    assert [c.version for c in closes] == [1, 2]
    assert closes[1].from_step == closes[0].to_step > 0
    assert line.head is not None
    assert line.head.global_step == closes[1].to_step
    result = closes[0].result
    assert result is not None
    files = json.loads(house.store("trainer").read(WORK, result.key, sha256=result.sha256))["files"]
    names = [entry["path"] for entry in files]
    assert {"metrics.jsonl", "job.log"} <= set(names)
    assert any(name.startswith("evolution/") for name in names)
    metrics = next(e for e in files if e["path"] == "metrics.jsonl")
    lines = house.store("trainer").read(WORK, metrics["key"]).splitlines()
    steps = [step["position"] for step in map(json.loads, lines) if "rows" in step]
    assert steps == list(range(1, closes[0].to_position + 1))


async def test_killed_workers_paused_and_preempted_jobs_end_with_the_same_tensors(
    house: House,
) -> None:
    """kill -9 of the worker, kill -9 of the supervisor, pause and resume lose no step."""
    root = house.add_base()
    trainer = house.start("trainer", DURAMEN_CHECKPOINT_SECONDS="0.2")
    try:
        undisturbed = await train_undisturbed(house, root, "calm", 24)
        await house.create("rough", root, dropout=0.05)
        job = await house.submit("rough", tiny_conversations(24), **SLOW_STEPS)
        await house.until_step(4)
        os.kill(await trainer.worker(), signal.SIGKILL)
        await house.until_step(8)
        paused = await set_state(house, "paused")
        assert paused.checkpoint is not None
        assert paused.read_back
        trainer.kill()
        trainer = house.start("trainer", DURAMEN_CHECKPOINT_SECONDS="0.2")
        back = await set_state(house, "paused")
        assert back.state == "paused"
        assert back.fence != paused.fence
        assert back.checkpoint == paused.checkpoint
        await set_state(house, "running")
        table = await house.until_state(job, "done")
    finally:
        trainer.end()
    line = table.lines["rough"]
    assert adapter_hash(house, line) == undisturbed
    assert [s.closed.outcome for s in line.kept() if s.closed] == ["done"]
    assert len(next(iter(line.segments.values())).opens) >= 3


async def test_a_high_job_preempts_and_the_lower_one_goes_on_from_the_head_it_finds(
    house: House,
) -> None:
    await house.create("main", house.add_base())
    low = await house.submit("main", tiny_conversations(30), "low", **SLOW_STEPS)
    with house.service("trainer", DURAMEN_CHECKPOINT_SECONDS="0.5"):
        await house.until_step(2)
        high = await house.submit("main", tiny_conversations(8, start=50), "high")
        await house.until_state(high, "done")
        table = await house.until_state(low, "done")
    line = table.lines["main"]
    kept = [(s.job, s.closed.outcome) for s in line.kept() if s.closed]
    assert kept == [(low, "preempted"), (high, "done"), (low, "done")]
    first, _, last = (s.closed for s in line.kept() if s.closed)
    assert last.from_position == first.to_position
    assert table.jobs[high].record.version == 1
    assert table.jobs[low].record.version == 2


async def test_stop_keeps_what_was_trained_and_skip_drops_it(house: House) -> None:
    await house.create("main", house.add_base())
    job = await house.submit("main", tiny_conversations(30), **SLOW_STEPS)
    with house.service("trainer", DURAMEN_CHECKPOINT_SECONDS="0.5"):
        await house.until_step(2)
        stopped = await set_state(house, "stopped")
        assert stopped.state == "stopped"
        table = await house.until_state(job, "queued")
        head = table.lines["main"].head
        assert head is not None
        assert head.global_step >= 2
        await set_state_running_and_skip(house, table, job)
        table = await house.until_state(job, "skipped")
        assert table.lines["main"].head == head


async def set_state_running_and_skip(house: House, table: Table, job: JobId) -> None:
    async with house.bus("ctl") as bus:
        control = Control("trainer")
        await control.update(bus)
        await control.set_desired(bus, "running", "test")

        async def opened() -> str | None:
            await table.update(bus)
            segment = table.lines["main"].open_segment
            return segment.id if segment else None

        segment = await until(opened, "the segment opens")
        await control.update(bus)
        once = Once(by="test", service="trainer", command="skip", segment=segment)
        at = await control.ask_once(bus, once)

        async def answered() -> bool:
            seen = await observed(bus, "trainer")
            return bool(seen and seen.once_through >= at)

        await until(answered, "skip is answered")


async def test_a_file_that_cannot_be_trained_fails_with_a_reason_and_the_next_one_starts(
    house: House,
) -> None:
    await house.create("main", house.add_base())
    bad = await house.submit("main", [[("user", "long " * 400), ("assistant", "no")]])
    good = await house.submit("main", tiny_conversations(8))
    with house.service("trainer", DURAMEN_MAX_LENGTH="64"):
        table = await house.until_state(good, "done")
    failure = table.jobs[bad].record.failure
    assert failure is not None
    assert failure.kind == "data"
    assert failure.next_step


async def test_a_lineage_without_a_base_waits_and_says_why(house: House) -> None:
    await house.submit("main", tiny_conversations(4))
    with house.service("trainer"):
        async with house.bus("ctl") as bus:

            async def waits() -> str | None:
                seen = await observed(bus, "trainer")
                return seen.waits_for if seen else None

            assert "duramen base add" in await until(waits, "a reason")


async def test_two_trainers_never_share_a_folder(house: House) -> None:
    with house.service("trainer"):
        async with house.bus("ctl") as bus:
            await until(lambda: observed(bus, "trainer"), "the first one shows itself")
        second = house.start("trainer")
        assert second.end() != 0
