"""The supervisor's side of a worker: what it is asked before the worker is there."""

import asyncio
import threading

import pytest

from services.trainer.supervisor.trainer import Trainer
from services.trainer.supervisor.worker_run import Training
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


@pytest.mark.parametrize("way", ["finish", "kill"])
async def test_a_worker_asked_to_leave_before_it_is_there_never_starts(
    way: str, trainer: Trainer, segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause that comes while a base is still fetched holds, as one at any other time."""
    asked = threading.Event()
    monkeypatch.setattr(Training, "prepare", lambda self: asked.wait(30))
    training = Training(
        settings=trainer.settings,
        bus=trainer.bus,
        local=trainer.local,
        line=Line("main"),
        job=queued(segment),
        segment=segment,
        changed=lambda: None,
        on_plan=lambda *_: None,
    )
    run = asyncio.create_task(training.run())
    await asyncio.sleep(0)  # it prepares
    await training.ask("snapshot", 7)  # nobody there to hear it: asked again later
    await getattr(training, way)()
    asked.set()
    assert (await run).outcome == "interrupted"
    assert training.worker is None
    assert training.asked == 0
