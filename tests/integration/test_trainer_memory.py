"""The trainer when memory runs out, on real servers: the kernel kills, training goes on smaller."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from services.trainer.settings import TrainerSettings
from shared.formats.adapter import AdapterShape
from shared.host import CGROUPS
from shared.ledger.control import Control, observed
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line
from shared.memory_estimate import Choice, estimate_memory, shape_of_folder
from shared.protocol.control import Once
from tests.integration.test_trainer import set_state
from tests.services import House, Process, until
from tests.tiny import shared_tiny, tiny_conversations

SLOW_STEPS: dict[str, Any] = {"batch_tokens": 400, "epochs": 20}


# Takes memory that cannot be given back, until the worker is gone. A limit alone proves nothing: a
# worker in its stride asks for no more, and files are dropped before. What the worker held may not
# be free yet when the kernel looks again: this is the next one, then.
EATER = """
import os, select, sys
from pathlib import Path
Path("/proc/self/oom_score_adj").write_text("1000")
killed = os.pidfd_open(int(sys.argv[2]))
Path(sys.argv[1]).write_text("0")
held = []
while not select.select([killed], [], [], 0)[0]:
    held.append(b"x" * (1 << 20))
"""


class Group:
    """A memory control group of this test, whichever version the host has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        old = (folder / "memory.limit_in_bytes").exists()
        self.limit = "memory.limit_in_bytes" if old else "memory.max"
        self.usage = "memory.usage_in_bytes" if old else "memory.current"
        self.none = "-1" if old else "max"

    def take(self, *pids: int) -> None:
        for pid in pids:
            (self.folder / "cgroup.procs").write_text(str(pid))

    def run_out(self, trainer: Process) -> None:
        """Until the kernel has killed the worker, which is stopped: it cannot end before."""
        worker = worker_of(trainer)
        killed = os.pidfd_open(worker)
        for pid in (trainer.pid, worker):
            os.kill(pid, signal.SIGSTOP)
        procs = self.folder / "cgroup.procs"
        others = [pid for pid in map(int, procs.read_text().split()) if pid != worker]
        # All that the kernel may kill here is the worker, and what takes memory.
        for pid in others:
            (self.folder.parent / "cgroup.procs").write_text(str(pid))
        self.take(worker)  # it may be older than its trainer's place in this group
        Path(f"/proc/{worker}/oom_score_adj").write_text("1000")
        used = int((self.folder / self.usage).read_text())
        (self.folder / self.limit).write_text(str(used + (64 << 20)))
        subprocess.run([sys.executable, "-c", EATER, str(procs), str(worker)], timeout=60)
        self.allow_all()
        self.take(*others)
        os.kill(trainer.pid, signal.SIGCONT)
        assert select.select([killed], [], [], 60)[0], "the kernel killed the worker"
        os.close(killed)

    def allow_all(self) -> None:
        (self.folder / self.limit).write_text(self.none)


@pytest.fixture
def group() -> Iterator[Group]:
    parent = CGROUPS / "memory" if (CGROUPS / "memory").is_dir() else CGROUPS
    folder = parent / f"duramen-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        made = Group(folder)
        if not (folder / made.limit).exists():
            pytest.skip("memory is not controlled by groups here")
        yield made
    finally:
        folder.rmdir()


def worker_of(trainer: Process) -> int:
    (worker,) = trainer.children()
    return worker


async def test_a_worker_that_the_kernel_kills_for_memory_goes_on_with_half_the_micro_batch(
    house: House, group: Group
) -> None:
    await house.create("main", house.add_base())
    job = await house.submit("main", tiny_conversations(60), **{**SLOW_STEPS, "epochs": 8})
    trainer = house.start(
        "trainer", DURAMEN_CHECKPOINT_SECONDS="0.2", DURAMEN_MICRO_BATCH_TOKENS="512"
    )
    try:
        group.take(trainer.pid)
        await house.until_step(2)
        await asyncio.to_thread(group.run_out, trainer)
        table = Table()
        async with house.bus("ctl") as bus:

            async def shrunk() -> Line | None:
                await table.update(bus)
                line = table.lines["main"]
                closed = [s for s in line.segments.values() if s.closed]
                return line if closed else None

            line = await until(shrunk, "the segment is closed")
        first = next(iter(line.segments.values()))
        assert first.closed is not None
        assert (first.closed.outcome, first.closed.cause) == ("preempted", "memory")
        table = await house.until_state(job, "done")
        # The next job keeps to what was found out.
        after = await house.submit("main", tiny_conversations(8, start=90))
        table = await house.until_state(after, "done")
    finally:
        group.allow_all()
        trainer.end()
    line = table.lines["main"]
    kept = line.kept()
    assert [s.job for s in kept] == [job] * (len(kept) - 1) + [after]
    sizes = [s.record.micro_tokens for s in line.segments.values()]
    assert sizes[:2] == [512, 256]
    assert sizes[-1] == sizes[-2] < 512
    # Nothing is trained twice, nothing left out.
    positions = [(s.closed.from_position, s.closed.to_position) for s in kept if s.closed]
    assert positions[0][1] > 0
    assert all(a[1] == b[0] for a, b in pairwise(positions[:-1]))
    assert all(s.record.deaths == 0 for s in line.segments.values())
    assert table.jobs[job].record.version == 1


async def test_too_little_free_memory_is_waited_for_and_a_pause_gives_all_of_it_back(
    house: House,
) -> None:
    await house.create("main", house.add_base())
    job = await house.submit("main", tiny_conversations(40), **SLOW_STEPS)
    with house.service("trainer", DURAMEN_MEMORY_LIMIT=str(100 << 20)):
        async with house.bus("ctl") as bus:

            async def waiting() -> str | None:
                seen = await observed(bus, "trainer")
                return seen.waits_for if seen and seen.state == "waiting" else None

            why = await until(waiting, "the trainer waits")
        assert "memory: " in why
        assert "DURAMEN_MEMORY_LIMIT allows 100 MiB" in why
        async with house.bus("ctl") as bus:
            table = Table()
            assert (await house.job(bus, table, job)).record.state == "queued"
    with house.service("trainer") as trainer:
        await house.until_step(2)
        worker = worker_of(trainer)
        assert Path(f"/proc/{worker}").exists()
        async with house.bus("ctl") as bus:
            control = Control("trainer")
            await control.update(bus)
            await control.set_desired(bus, "paused", "test")

            async def paused() -> bool:
                seen = await observed(bus, "trainer")
                return seen is not None and seen.state == "paused"

            await until(paused, "paused")
        assert not trainer.children()
        assert not Path(f"/proc/{worker}").exists()


async def test_a_resumed_job_without_memory_waits_in_the_queue_and_other_lineages_go_on(
    house: House,
) -> None:
    root = house.add_base()
    await house.create("main", root, rank=64)
    await house.create("other", root)
    # So long that it is not over before the pause is heard.
    job = await house.submit("main", tiny_conversations(40), **{**SLOW_STEPS, "epochs": 40})
    with house.service("trainer", DURAMEN_CHECKPOINT_SECONDS="0.2"):
        await house.until_step(2)
        paused = await set_state(house, "paused")
    assert paused.checkpoint is not None
    other = await house.submit("other", tiny_conversations(8))
    limit = {"DURAMEN_MEMORY_LIMIT": str((needed(64) + needed(4)) // 2)}
    with house.service("trainer", **limit) as trainer:
        assert (await set_state(house, "paused")).checkpoint == paused.checkpoint
        await set_state(house, "running")
        table = await house.until_state(other, "done")
        line = table.lines["main"]
        (segment,) = line.segments.values()
        assert segment.closed is not None
        assert segment.closed.outcome == "preempted"
        assert segment.record.deaths == 0
        assert line.head is not None
        assert line.head.checkpoint is not None
        assert line.head.checkpoint.id == paused.checkpoint.id
        assert table.jobs[job].record.state == "queued"
        async with house.bus("ctl") as bus:
            seen = await observed(bus, "trainer")
            assert seen is not None
            assert "main: memory: " in (seen.waits_for or "")
            control = Control("trainer")
            await control.update(bus)
            once = Once(by="test", service="trainer", command="snapshot", segment=segment.id)
            at = await control.ask_once(bus, once)

            async def answered() -> bool:
                seen = await observed(bus, "trainer")
                return seen is not None and seen.once_through >= at

            await until(answered, "a late command is answered")
            await table.update(bus)
        assert len(table.lines["main"].segments) == 1
        assert trainer.children() == []
    with house.service("trainer"):
        table = await house.until_state(job, "done")
    first, last = (s.closed for s in table.lines["main"].kept() if s.closed)
    assert first.to_position == paused.checkpoint.position == last.from_position


def needed(rank: int) -> int:
    """Bytes, at least, for a segment of the tiny base by the trainer's own settings."""
    tokens = int(TrainerSettings.model_fields["micro_batch_tokens"].default)
    choice = Choice("float32", tokens, checkpointing=True)
    return estimate_memory(
        shape_of_folder(shared_tiny()), choice, AdapterShape(rank=rank), "cpu"
    ).total
