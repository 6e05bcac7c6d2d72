"""A round that fails ends neither its loop nor its service: it is named and tried again."""

import asyncio
import sqlite3

import pytest

from shared.errors import BusWentBack, ObjectMissing, StoreUnavailable
from shared.progress import loops
from shared.protocol.events import Alarm
from shared.protocol.observed import Observed
from shared.service import loop
from shared.service.alarms import Alarms
from shared.service.observer import with_failures

FAILURES = [
    ObjectMissing("store", "duramen", "plans/a.json"),
    sqlite3.IntegrityError("NOT NULL constraint failed"),
    RecursionError("maximum recursion depth exceeded"),
    AssertionError(),
    KeyError("level"),
    ValueError("\udcff"),
]


class Rounds:
    """Rounds that fail one after another, and then succeed."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.seen: list[str | None] = []
        self.done = asyncio.Event()

    async def once(self) -> None:
        self.seen.append(loop.failed_rounds())
        if self.failures:
            raise self.failures.pop(0)
        if loops["rounds"].failed is None:  # the round before this one was noted as good
            self.done.set()


async def run(rounds: Rounds, alarms: Alarms) -> None:
    repeated = loop.repeat("rounds", rounds.once, asyncio.Event(), 0.01, alarms)
    task = asyncio.create_task(repeated)
    over = asyncio.create_task(rounds.done.wait())
    await asyncio.wait([task, over], return_when=asyncio.FIRST_COMPLETED, timeout=20)
    for each in (task, over):
        each.cancel()
    if task.done():
        await task
    assert rounds.done.is_set()


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
async def test_it_goes_on_with_an_alarm_until_a_round_succeeds(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RETRY_AT_MOST_SECONDS", 0.01)
    told: list[Alarm] = []

    async def tell(alarm: Alarm, _: str | None) -> None:
        alarm.encode()
        told.append(alarm)

    rounds, alarms = Rounds(failure, failure), Alarms(tell)
    await run(rounds, alarms)
    assert [(alarm.what, alarm.about) for alarm in told] == [("round_failed", "rounds")]
    assert alarms.standing == {}
    assert rounds.seen[0] is None
    assert "rounds failed and is tried again" in (rounds.seen[1] or "")
    assert loop.failed_rounds() is None


async def test_an_outage_is_no_failure() -> None:
    async def tell(_: Alarm, __: str | None) -> None:
        pytest.fail("an outage is told as one")

    rounds = Rounds(StoreUnavailable())
    await run(rounds, Alarms(tell))
    assert not any(rounds.seen)


async def test_a_bus_that_went_back_ends_it_because_nothing_may_be_written() -> None:
    with pytest.raises(BusWentBack):
        await loop.repeat("rounds", Rounds(BusWentBack("JOBS", 3)).once, asyncio.Event(), 1.0)


def test_what_fails_is_shown_with_what_is_waited_for() -> None:
    view = Observed(service="vault", instance="vault", state="idle", waiting={"*": "the store"})
    assert with_failures(view, None) is view
    shown = with_failures(view, "publish failed")
    assert (shown.state, shown.waits_for) == ("waiting", "publish failed; the store")
