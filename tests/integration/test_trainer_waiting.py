"""What waits behind something is not forgotten: lineages behind a job, a skip behind a snapshot."""

import json
from collections.abc import AsyncIterator

import pytest

from services.trainer import memory
from services.trainer.protocol import StopReason
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor import own_lease
from services.trainer.supervisor.commands import answer_idle
from services.trainer.supervisor.decide import new_run, stop_request
from services.trainer.supervisor.held import HeldSegment
from services.trainer.supervisor.local_files import Local
from services.trainer.supervisor.next_job import ask_those_that_wait, next_job, open_job
from services.trainer.supervisor.trainer import Trainer
from shared.ledger.control import Control
from shared.protocol.control import Once
from tests.services import House
from tests.tiny import tiny_conversations

GIB = 1 << 30


@pytest.fixture
async def trainer(house: House, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Trainer]:
    """A trainer in this process, whose worker is none."""
    for name, value in house.stack.env("trainer").items():
        monkeypatch.setenv(name, value)
    settings = TrainerSettings.load(device="cpu")
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    async with house.bus("trainer") as bus:
        name = own_lease.lease_name(settings.state_dir)
        lease = own_lease.OwnLease(bus, name, "trainer@test#1", settings.lease_seconds)
        local = Local(settings.state_dir, house.store("trainer"))
        yield Trainer(settings, bus, local, "float32", HeldSegment(lease))


async def test_a_higher_job_preempts_once_what_it_waits_for_is_there(
    house: House, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = house.add_base()
    await house.create("main", root)
    low = await house.submit("main", tiny_conversations(8))
    await house.submit("late", tiny_conversations(8), "high")
    await trainer.refresh()
    job = await next_job(trainer)
    assert job is not None
    assert job.id == low
    assert "duramen lineage new late" in trainer.waiting.reasons["late"]
    await open_job(trainer, job)
    segment = trainer.held.open
    new_run(trainer, segment)

    await house.create("late", root)
    await trainer.refresh()
    assert stop_request(trainer, segment) is None
    # The worker has taken what was free: it counts as free, unless there was too little before.
    monkeypatch.setattr(memory, "measured_memory", lambda _: memory.Memory("cpu", 64 * GIB, 0))
    trainer.memory.free_before = 1
    await ask_those_that_wait(trainer)
    assert "memory: " in trainer.waiting.reasons["late"]
    assert stop_request(trainer, segment) is None
    trainer.memory.free_before = 32 * GIB
    await ask_those_that_wait(trainer)
    assert trainer.waiting.reasons == {}
    request = stop_request(trainer, segment)
    assert request is not None
    assert request.reason is StopReason.PREEMPT
    trainer.waiting.note("gone", "nobody queues here any more")
    await ask_those_that_wait(trainer)
    assert trainer.waiting.reasons == {}


async def test_a_skip_waits_for_no_snapshot_that_was_asked_before_it(
    house: House, trainer: Trainer
) -> None:
    await house.create("main", house.add_base())
    await house.submit("main", tiny_conversations(8))
    await trainer.refresh()
    job = await next_job(trainer)
    assert job is not None
    await open_job(trainer, job)
    held = trainer.held.open
    async with house.bus("ctl") as bus:
        control = Control("trainer")
        for command in ("snapshot", "skip"):
            await control.update(bus)
            once = {"by": "test", "service": "trainer", "command": command, "segment": held.id}
            last = await control.ask_once(bus, Once.model_validate(once))
    await trainer.refresh()
    assert trainer.orders.state == "running"
    await answer_idle(trainer)
    assert trainer.held.segment is None
    assert trainer.orders.through == last
    found = [e async for e in trainer.bus.read("EVT", 0, "evt.trainer.answered")]
    answers = [json.loads(e.data)["data"] for e in found]
    said = [(a["name"], a["outcome"], a["why"]) for a in answers]
    assert said[0] == ("snapshot", "void", "the run that it was meant for is over (skipped)")
    assert said[1] == ("skip", "done", "dropped")
