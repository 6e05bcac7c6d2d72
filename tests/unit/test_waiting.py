"""What a trainer says that it waits for is what the queue shows."""

import socket

import pytest

from services.ctl.views.forecast import reasons, starts
from services.trainer.protocol import StopReason
from services.trainer.supervisor.next_job import newest_of_open
from services.trainer.supervisor.observe import view_of
from services.trainer.supervisor.run.worker_run import Ended, StopRequest
from services.trainer.supervisor.trainer import Trainer
from shared.errors import StoreUnavailable
from shared.ledger.jobs import Table
from shared.ledger.lineage import Segment
from shared.protocol.control import Desired
from tests.unit.test_checkpoint import write


def test_the_queue_shows_that_the_store_is_away_and_why_each_lineage_waits(
    trainer: Trainer,
) -> None:
    waiting = {"main": "no base: duramen base add DIR", "other": "one thing; two: three"}
    for lineage, why in waiting.items():
        trainer.waiting.note(lineage, why)
    assert reasons(view_of(trainer)) == waiting
    trainer.outage.failed(StoreUnavailable("refused"))
    seen = view_of(trainer)
    assert list(reasons(seen)) == ["*", "main", "other"]
    assert reasons(seen)["*"] == trainer.outage.sentence
    assert (seen.waits_for or "").startswith("the store has not answered since ")
    assert starts(Table(), seen, 0.0, 1.0) == {}


def test_a_pause_is_shown_once_its_checkpoint_is_or_the_store_blocks_it(
    trainer: Trainer, segment: Segment
) -> None:
    trainer.outage.failed(StoreUnavailable("refused"))
    trainer.orders.control.desired = Desired(by="t", service="trainer", state="paused")
    trainer.orders.control.generation = 2
    trainer.held.take(segment)
    trainer.held.leaves(Ended("stopped", request=StopRequest(StopReason.PAUSE)))
    view = view_of(trainer)
    assert (view.state, view.generation) == ("running", 0)
    trainer.held.blocks()
    view = view_of(trainer)
    assert (view.state, view.generation) == ("paused", 2)


@pytest.mark.parametrize("is_mine", [True, False])
async def test_a_store_that_is_known_to_be_away_is_not_asked_before_this_disk(
    trainer: Trainer, segment: Segment, is_mine: bool
) -> None:
    """It may hang, and a pause waits for what is read."""
    if not is_mine:
        trainer.held.lease.name = "trainer.elsewhere"
    folder = trainer.local.segment("main", segment.id).make()
    path = write(folder.checkpoints, 7, segment=segment.id)
    trainer.outage.failed(StoreUnavailable("refused"))
    host, _, port = trainer.settings.store_url.removeprefix("http://").partition(":")
    with socket.create_server((host, int(port))) as store:
        store.setblocking(False)  # it takes no connection, and knows whether one came
        if is_mine:
            found = await newest_of_open(trainer, segment, folder)
            assert found is not None
            assert (found.local, found.ref.global_step) == (path, 7)
            with pytest.raises(BlockingIOError):
                store.accept()
            return
    with pytest.raises(StoreUnavailable):
        await newest_of_open(trainer, segment, folder)
