"""The queue as `duramen queue` shows and changes it, on real servers."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from services.trainer.supervisor.claim import Owner, open_segment
from shared.ledger.jobs import Table
from shared.protocol.names import JobId
from shared.protocol.observed import Observed, Progress
from tests.bench.bench_queue import fill
from tests.command_line import duramen
from tests.conftest import running_stack
from tests.history import Forged, forging
from tests.services import House, until
from tests.stack import Stack
from tests.tiny import tiny_conversations


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Servers of this file: `duramen queue` shows every job that there is."""
    with running_stack() as running:
        yield running


def run(stack: Stack, *words: str, columns: int = 80, code: int = 0) -> str:
    done = duramen(stack, *words, columns=columns)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def ask(stack: Stack, *words: str) -> Any:
    return json.loads(run(stack, *words, "--json"))


async def show(forged: Forged, **fields: Any) -> None:
    """Let the trainer say of itself."""
    said = Observed.model_validate({"service": "trainer", "instance": "test", **fields})
    await forged.buses["trainer"].observe(said)


async def test_jobs_stand_in_the_order_of_training_with_tokens_wait_and_start(
    stack: Stack,
) -> None:
    async with forging(stack, "order") as forged:
        running = await forged.queue("now.jsonl", 10)
        later = await forged.queue("later.jsonl", 10)
        urgent = await forged.queue("a-very-long-name-of-a-file " * 4 + ".jsonl", 10)
        await forged.open(running)
        running = await forged.plan(running, 4)
        sizes = {"tokens": 1000, "steps": 4}
        trainer = forged.buses["trainer"]
        await forged.table.write(trainer, running, "run", "test", **sizes)
        progress = Progress(
            position=2, steps=4, global_step=2, tokens_per_second=10.0, eta_seconds=50.0
        )
        state = {"state": "running", "job": running.id.path, "lineage": "order"}
        await show(forged, **state, progress=progress)

        moved = run(stack, "queue", "move", str(urgent.id), "--priority", "high")
        assert moved.startswith("a-very-long-name-of-a-file a-very")
        assert moved.endswith(f"… ({urgent.id}) now has high priority, with 0 jobs before it\n")
        rows = ask(stack, "queue", "list")
        assert [row["job"] for row in rows] == [str(j.id) for j in (running, urgent, later)]
        assert [row["tokens_estimated"] for row in rows] == [False, True, True]
        assert rows[0]["tokens"] == 1000
        # the higher one preempts; behind it come what is left of the running job, then the last
        ratio = 1000 / running.record.dataset.size
        takes = ratio * urgent.record.dataset.size / 10
        assert rows[1]["starts_in_seconds"] == 0
        assert rows[2]["starts_in_seconds"] == pytest.approx(takes + 50, abs=2)
        assert rows[2]["waited_seconds"] >= 0

        for columns in (80, 120):
            listed = run(stack, "queue", "list", columns=columns).splitlines()
            assert max(map(len, listed)) <= columns
            assert listed[1].startswith(f"{running.id}  normal    running 2/4    10    1.0k")
            assert "50s left" in listed[1]
            assert str(later.id) in "".join(listed)

        await show(forged, state="paused", job=running.id.path, lineage="order")
        rows = ask(stack, "queue", "list")
        assert [row["starts_in_seconds"] for row in rows] == [None, None, None]
        shown = run(stack, "queue")
        assert "paused" in shown
        assert "unknown" in shown
        assert "duramen resume" in shown

        run(stack, "queue", "remove", str(later.id))
        assert ask(stack, "queue", "show", str(later.id))["state"] == "removed"
        refused = run(stack, "queue", "remove", str(running.id), code=2)
        assert refused.count("\n") == 1
        assert refused.endswith("Next: duramen skip\n")
        assert "Next: duramen queue list" in run(stack, "queue", "show", "ffff", code=4)
        assert "Next: duramen queue move x --priority high" in run(
            stack, "queue", "move", "x", code=2
        )
        await forged.close("preempted", forged.checkpoint(2, 2))
        await show(
            forged, state="waiting", waiting={"order": "its base is gone: duramen base add DIR"}
        )
        rows = ask(stack, "queue", "list")
        assert rows[-2]["reason"] == "its base is gone: duramen base add DIR"


async def test_many_jobs_are_listed_whole(stack: Stack) -> None:
    await fill(stack, 3000, "many")
    rows = [row for row in ask(stack, "queue", "list") if row["lineage"] == "many"]
    assert len(rows) == 3000
    places = [(("high", "normal", "low").index(row["level"]), row["ticket"]) for row in rows]
    assert places == sorted(places)
    shown = run(stack, "queue", "list", columns=120)
    assert all(row["job"] in shown for row in rows)


async def test_a_failed_job_says_why_and_a_retry_goes_on_from_the_kept_step(
    own_stack: Stack,
) -> None:
    house = House(own_stack)
    await house.create("main", house.add_base())
    job = await house.submit("main", tiny_conversations(24), batch_tokens=64, epochs=6)
    with house.service("trainer", DURAMEN_CHECKPOINT_SECONDS="0.2") as trainer:
        await house.until_step(4)
        table = Table()
        async with house.bus("ctl") as bus:

            async def killed_until_failed() -> bool:
                for pid in trainer.children():
                    os.kill(pid, signal.SIGKILL)
                return (await house.job(bus, table, job)).record.state == "failed"

            await until(killed_until_failed, "the job fails")
        shown = ask(own_stack, "queue", "show", str(job))
        assert shown["failure"]["kind"] == "deaths"
        assert shown["plan"].startswith("duramen/plans/")
        assert shown["tokens"] > 0
        assert [s["outcome"] for s in shown["segments"]] == ["failed"]
        kept = shown["segments"][0]["plan_steps"][1]
        assert kept >= 1
        text = run(own_stack, "queue", "show", str(job))
        assert "Its owner died" in text
        assert f"duramen queue retry {job}" in text
        assert "plan " in run(own_stack, "queue", "show", str(job), "--log")
        assert f"continues at step {kept}" in run(own_stack, "queue", "retry", str(job))
        await house.until_state(job, "done")
    shown = ask(own_stack, "queue", "show", str(job))
    assert [s["outcome"] for s in shown["segments"]] == ["failed", "done"]
    assert shown["segments"][1]["plan_steps"] == [kept, shown["steps"]]
    assert shown["versions"] == [1]
    assert shown["attempt"] == 2
    verbs = [entry["verb"] for entry in shown["history"]]
    assert verbs[0] == "submit"
    assert verbs[-1] == "done"
    assert {"run", "fail", "retry"} <= set(verbs)


async def test_a_job_that_is_removed_as_its_segment_opens_closes_as_void(own_stack: Stack) -> None:
    house = House(own_stack)
    await house.create("main", house.add_base())
    job = await house.submit("main", tiny_conversations(8))
    await claim_and_die(house, job)
    run(own_stack, "queue", "remove", str(job))
    other = await house.submit("main", tiny_conversations(8, start=50))
    with house.service("trainer", DURAMEN_LEASE_SECONDS="1"):
        table = await house.until_state(other, "done")
    assert table.jobs[job].record.state == "removed"
    outcomes = [s.closed.outcome for s in table.lines["main"].segments.values() if s.closed]
    assert outcomes == ["void", "done"]


async def claim_and_die(house: House, job: JobId) -> None:
    """What a trainer leaves that is killed between the ledger's record and the job's."""
    table = Table()
    async with house.bus("trainer") as bus:
        await table.update(bus)
        await open_segment(
            bus, table, table.jobs[job], Owner("trainer@gone#1", "trainer.gone", "float32", 512)
        )
