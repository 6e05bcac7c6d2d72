"""What a trainer says that it waits for is what the queue shows."""

from types import SimpleNamespace
from typing import Any

from services.ctl.forecast import reasons, starts
from services.trainer.outage import Outage
from services.trainer.show import view_of, waits_for
from services.trainer.state import Ended, Wish
from services.trainer.training import End
from shared.errors import StoreUnavailable
from shared.jobs import Table
from shared.messages import Observed


def seen_of(outage: Outage, waiting: dict[str, str]) -> Observed:
    trainer: Any = SimpleNamespace(outage=outage, training=None, waiting=waiting)
    said = "; ".join(waits_for(trainer))
    fields = {"service": "trainer", "instance": "t", "state": "waiting", "waiting": said}
    return Observed.model_validate(fields)


def test_the_queue_shows_that_the_store_is_away_and_why_each_lineage_waits() -> None:
    outage = Outage()
    waiting = {"main": "no base: duramen base add DIR", "other": "one thing; two: three"}
    assert reasons(seen_of(outage, waiting)) == {**waiting, "other": "one thing, two: three"}
    outage.failed(StoreUnavailable("refused"))
    seen = seen_of(outage, waiting)
    assert list(reasons(seen)) == ["*", "main", "other"]
    assert reasons(seen)["*"] == outage.sentence
    assert (seen.waits_for or "").startswith("the store has not answered since ")
    assert starts(Table(), seen, 0.0, 1.0) == {}


def test_a_pause_is_shown_once_its_checkpoint_is_or_the_store_hinders_it() -> None:
    outage = Outage()
    outage.failed(StoreUnavailable("refused"))
    ended = Ended(End("interrupted"), Wish("pause"))
    job = SimpleNamespace(lineage="main", path="main.x.1")
    record = SimpleNamespace(checkpoint=None)
    trainer: Any = SimpleNamespace(
        held=SimpleNamespace(job=job, record=record, id="ab" * 6, fence=7),
        training=None,
        control=SimpleNamespace(state="paused", generation=2),
        table=SimpleNamespace(lines={}),
        outage=outage,
        waiting={},
        ended=ended,
        unstored=None,
        once_through=0,
        by="t",
        shown=None,
    )
    view = view_of(trainer)
    assert (view.state, view.generation) == ("running", 0)
    ended.hindered = True
    view = view_of(trainer)
    assert (view.state, view.generation) == ("paused", 2)
