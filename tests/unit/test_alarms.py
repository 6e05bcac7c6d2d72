"""An alarm is told once while it stands, and again after it was over."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.trainer.supervisor.store_outage import Outage
from shared.errors import BusUnavailable, StoreUnavailable
from shared.protocol.events import Alarm
from shared.service.alarms import DETAIL_LENGTH, Alarms


class Told(list[tuple[Alarm, str | None]]):
    """What was told; `away` is what the bus raises instead."""

    away: BusUnavailable | None = None

    async def __call__(self, alarm: Alarm, lineage: str | None) -> None:
        if self.away is not None:
            raise self.away
        self.append((alarm, lineage))


async def test_it_is_told_once_while_it_stands_and_again_after_it_was_over() -> None:
    told, seen = Told(), CollectorRegistry()
    raised = Counter("raised", "Raised.", ["what"], registry=seen)
    active = Gauge("active", "Active.", ["what"], registry=seen)
    alarms = Alarms(told, raised, active)

    def shown() -> tuple[float | None, float | None]:
        of = {"what": "damaged"}
        return seen.get_sample_value("raised_total", of), seen.get_sample_value("active", of)

    await alarms.sound("damaged", "main/v001", "a" * 3000, "main")
    await alarms.sound("damaged", "main/v001", "b", "main")
    await alarms.sound("damaged", "main/v002", "c", "main")
    assert [(alarm.about, lineage) for alarm, lineage in told] == [
        ("main/v001", "main"), ("main/v002", "main")
    ]  # fmt: skip
    assert len(told[0][0].detail) == DETAIL_LENGTH
    assert alarms.standing == {("damaged", "main/v001"): "b", ("damaged", "main/v002"): "c"}
    assert shown() == (2, 2)
    for _ in range(2):
        alarms.clear("damaged", "main/v001")
    assert shown() == (2, 1)
    await alarms.sound("damaged", "main/v001", "d", "main")
    assert (len(told), shown()) == (3, (3, 2))


async def test_what_the_bus_did_not_take_is_told_when_it_is_back() -> None:
    told = Told()
    told.away = BusUnavailable("refused")
    alarms = Alarms(told)
    with pytest.raises(BusUnavailable):
        await alarms.sound("ledger_lost", "main", "why")
    assert not alarms.standing
    told.away = None
    await alarms.sound("ledger_lost", "main", "why")
    assert len(told) == 1


async def test_each_long_outage_of_the_store_is_told_once() -> None:
    told = Told()
    outage = Outage(0.0, Alarms(told))
    await outage.tell()
    assert not told
    for count in (1, 2):
        outage.failed(StoreUnavailable("refused"))
        for _ in range(2):
            await outage.tell()
        assert len(told) == count
        assert told[-1] == (Alarm(what="store_away", detail=outage.sentence), None)
        outage.over()
    outage.limit_seconds = 60.0
    outage.failed(StoreUnavailable("refused"))
    await outage.tell()
    assert len(told) == 2
