"""What a trainer says that it waits for is what the queue shows."""

from types import SimpleNamespace
from typing import Any

import pytest

from services.ctl.forecast import reasons, starts
from services.trainer import upload
from services.trainer.outage import Outage
from services.trainer.show import view_of, waits_for
from services.trainer.state import Ended, Wish
from services.trainer.training import End
from services.trainer.work import newest
from shared.errors import StoreUnavailable
from shared.jobs import Table
from shared.messages import Observed


def seen_of(outage: Outage, waiting: dict[str, str]) -> Observed:
    trainer: Any = SimpleNamespace(outage=outage, training=None, waiting=waiting)
    said = waits_for(trainer)
    fields = {"service": "trainer", "instance": "t", "state": "waiting", "waiting": said}
    return Observed.model_validate(fields)


def test_the_queue_shows_that_the_store_is_away_and_why_each_lineage_waits() -> None:
    outage = Outage()
    waiting = {"main": "no base: duramen base add DIR", "other": "one thing; two: three"}
    assert reasons(seen_of(outage, waiting)) == waiting
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
        instance="t",
        shown=None,
    )
    view = view_of(trainer)
    assert (view.state, view.generation) == ("running", 0)
    ended.hindered = True
    view = view_of(trainer)
    assert (view.state, view.generation) == ("paused", 2)


@pytest.mark.parametrize("is_mine", [True, False])
async def test_a_store_that_is_known_to_be_away_is_not_asked_before_this_disk(
    monkeypatch: pytest.MonkeyPatch, is_mine: bool
) -> None:
    """It may hang, and a pause waits for what is read."""
    here = SimpleNamespace(ref=SimpleNamespace(global_step=7))
    looks: list[bool] = []

    def look(*_: Any, only_local: bool = False) -> Any:
        looks.append(only_local)
        if not only_local:
            raise StoreUnavailable
        return here

    monkeypatch.setattr(upload, "newest", look)
    outage = Outage()
    outage.failed(StoreUnavailable("refused"))
    lease = SimpleNamespace(name="trainer.here")
    trainer: Any = SimpleNamespace(outage=outage, local=SimpleNamespace(store=None), lease=lease)
    record = SimpleNamespace(lease="trainer.here" if is_mine else "another", global_step=5)
    segment: Any = SimpleNamespace(record=record)
    folder: Any = None
    if is_mine:
        assert await newest(trainer, segment, folder) is here  # type: ignore[comparison-overlap]
    else:
        with pytest.raises(StoreUnavailable):
            await newest(trainer, segment, folder)
    assert looks == [is_mine]
