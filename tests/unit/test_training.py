"""The supervisor's side of a worker: what it is asked before the worker is there."""

import asyncio
import threading
from pathlib import Path

import pytest

from services.trainer.protocol import CheckpointSaved, StopReason, TrainingEnded
from services.trainer.supervisor.run.worker_process import Worker
from services.trainer.supervisor.run.worker_run import StopRequest, WorkerRun
from services.trainer.supervisor.trainer import Trainer
from shared.ledger.jobs import Job
from shared.ledger.lineage import Line, Segment
from shared.protocol.message import ObjectRef
from shared.protocol.names import now
from shared.protocol.records import JobRecord


def queued(segment: Segment) -> Job:
    """Return the job of a segment as it was queued."""
    sha256 = segment.job.sha256
    dataset = ObjectRef(
        bucket="duramen", key=f"datasets/{sha256}/data.jsonl", sha256=sha256, size=1
    )
    record = JobRecord(
        by="t",
        job=segment.job.path,
        state="queued",
        level="normal",
        name="rows.jsonl",
        dataset=dataset,
        rows=1,
        queued_at=now(),
    )
    return Job(segment.job, record, 1, 1)


@pytest.mark.parametrize("reason", [StopReason.PAUSE, StopReason.LOST])
async def test_a_worker_asked_to_leave_before_it_is_there_never_starts(
    reason: StopReason, trainer: Trainer, segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause that comes while a base is still fetched holds, as one at any other time."""
    asked = threading.Event()
    monkeypatch.setattr(WorkerRun, "prepare", lambda self: (asked.wait(30), None))
    run = a_run(trainer, segment)
    running = asyncio.create_task(run.run())
    await asyncio.sleep(0)  # it prepares
    assert await run.ask("snapshot", 7) is None  # nobody there to hear it: asked again later
    await run.stop(StopRequest(reason))
    asked.set()
    ended = await running
    assert ended.how == "stopped"
    assert ended.request is not None
    assert ended.request.reason is reason
    assert run.worker is None
    assert run.asked is None


def a_run(trainer: Trainer, segment: Segment) -> WorkerRun:
    """Return a run on this segment that has not begun."""
    return WorkerRun(
        settings=trainer.settings,
        bus=trainer.bus,
        table=trainer.table,
        by=trainer.by,
        local=trainer.local,
        outage=trainer.outage,
        line=Line("main"),
        job=queued(segment),
        segment=segment,
    )


async def test_each_line_of_a_worker_is_one_event_or_is_told_of(tmp_path: Path) -> None:
    """What a library prints onto the pipe is skipped; what comes behind it is not lost."""
    end = TrainingEnded(
        reason=StopReason.PAUSE,
        checkpoint=CheckpointSaved(
            path=tmp_path, id="ab" * 32, global_step=7, position=7, write_seconds=0.1
        ),
    )
    (tmp_path / "said").write_text('noise\n{"event":"step"}\n' + end.model_dump_json() + "\n")
    process = await asyncio.create_subprocess_exec(
        *("cat", str(tmp_path / "said")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    worker = Worker(process, -1)
    assert [event async for event in worker.events()] == [end]
    assert await worker.wait() == 0
