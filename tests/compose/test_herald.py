"""The herald on a real bus, towards a server that records what Grafana and a webhook would get."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.herald.alerts import Alerts
from services.herald.herald import Herald
from services.herald.notify import addresses
from services.herald.outlet import OutletAway
from services.herald.poll import Poll
from services.herald.settings import HeraldSettings
from shared.bus.client import Bus
from shared.ledger.control import Control
from shared.protocol.events import Event, VersionPublished
from tests.compose.recorder import Recorder, recording
from tests.stack import Stack


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as running:
        yield running


def settings(stack: Stack, recorder: Recorder, state: Path) -> HeraldSettings:
    return HeraldSettings(
        nats_url=stack.nats_url,
        nats_seed_file=stack.seed_file("herald"),
        nats_monitor_seed_file=stack.seed_file("monitor"),
        state_dir=state,
        http_port=1,
        http_token="a-token-of-a-test",
        prometheus_url=recorder.url,
        grafana_url=recorder.url,
        grafana_password="a-password-of-a-test",
        notify_urls=recorder.url.replace("http://", "json://"),
    )


@asynccontextmanager
async def herald(stack: Stack, recorder: Recorder, state: Path) -> AsyncIterator[Herald]:
    """As it is after a start, with the marks in `state`."""
    chosen = settings(stack, recorder, state)
    async with Bus(stack.nats_url, stack.seed_file("herald"), "herald") as bus:
        yield Herald(chosen, bus, addresses(chosen.notify_urls.get_secret_value()))


async def publish(stack: Stack, version: int) -> None:
    data = VersionPublished(version=version, ledger_sequence=version, copies=3, bytes=1)
    async with Bus(stack.nats_url, stack.seed_file("vault"), "vault") as bus:
        event = Event.of("vault", data, lineage="main")
        await bus.event(event)


async def pause(stack: Stack) -> None:
    async with Bus(stack.nats_url, stack.seed_file("ctl"), "ctl") as bus:
        control = Control("trainer")
        await control.update(bus)
        await control.set_desired(bus, "paused", "tester", "lunch")


def texts(recorder: Recorder) -> list[str]:
    return [each["text"] for each in recorder.annotations]


async def test_what_happens_is_drawn_and_what_people_asked_for_is_sent(
    own_stack: Stack, recorder: Recorder, tmp_path: Path
) -> None:
    async with herald(own_stack, recorder, tmp_path) as told:
        await told.once()
        await pause(own_stack)
        await publish(own_stack, 7)
        await told.once()
    assert texts(recorder) == ["pause by tester (lunch)", "main v007 is kept in 3 copies"]
    assert [each["tags"][:2] for each in recorder.annotations] == [
        ["duramen", "pause"],
        ["duramen", "version"],
    ]
    assert [post["message"] for post in recorder.posts] == ["main v007 is kept in 3 copies"]


async def test_grafana_away_hinders_nobody_and_gets_all_later_once(
    own_stack: Stack, recorder: Recorder, tmp_path: Path
) -> None:
    await publish(own_stack, 1)
    async with herald(own_stack, recorder, tmp_path) as told:
        recorder.away = True
        await told.once()  # nothing is raised
        await publish(own_stack, 2)
    recorder.away = False
    async with herald(own_stack, recorder, tmp_path) as told:
        await told.once()
        await told.once()
    # A herald that has lost its marks finds by their tags what is there.
    for mark in tmp_path.glob("grafana.json"):
        mark.unlink()
    async with herald(own_stack, recorder, tmp_path) as told:
        await told.once()
    assert texts(recorder) == ["main v001 is kept in 3 copies", "main v002 is kept in 3 copies"]


async def test_a_forged_command_is_told_to_nobody(
    own_stack: Stack, recorder: Recorder, tmp_path: Path
) -> None:
    connection = await own_stack.connect("ctl")
    await connection.jetstream().publish("ctl.desired.trainer", b'{"state":"stopped"}')
    await connection.close()
    async with herald(own_stack, recorder, tmp_path) as told:
        await told.once()
        await pause(own_stack)
        await told.once()
    assert texts(recorder) == ["pause by tester (lunch)"]


async def test_an_alert_is_sent_when_it_fires_and_when_it_is_over(
    recorder: Recorder, tmp_path: Path
) -> None:
    people = addresses(recorder.url.replace("http://", "json://"))
    firing = {
        "labels": {"alertname": "GpuLost"},
        "annotations": {"summary": "The GPU does not answer"},
        "state": "firing",
    }
    recorder.alerts = [firing, {**firing, "labels": {"alertname": "X"}, "state": "pending"}]
    await Alerts(recorder.url, people, tmp_path).once()
    await Alerts(recorder.url, people, tmp_path).once()  # a restart says nothing twice
    recorder.alerts = [{**firing, "state": "pending"}]  # so Prometheus begins after a restart
    await Alerts(recorder.url, people, tmp_path, over_seconds=0).once()
    recorder.alerts = []
    await Alerts(recorder.url, people, tmp_path).once()  # it may know of none yet
    assert len(recorder.posts) == 1
    await Alerts(recorder.url, people, tmp_path, over_seconds=0).once()
    assert [(post["title"], post["message"]) for post in recorder.posts] == [
        ("Duramen: alert", "The GPU does not answer"),
        ("Duramen: alert over", "The GPU does not answer"),
    ]


async def test_an_address_that_takes_nothing_is_an_outlet_away(recorder: Recorder) -> None:
    recorder.away = True
    with pytest.raises(OutletAway):
        await addresses(recorder.url.replace("http://", "json://"))[0].send("test", "x")


async def test_an_address_that_is_gone_keeps_nothing_from_the_others(
    own_stack: Stack, recorder: Recorder, tmp_path: Path
) -> None:
    there = recorder.url.replace("http://", "json://")
    people = addresses(f"json://127.0.0.1:1/gone, {there}")
    recorder.alerts = [
        {"labels": {"alertname": name}, "annotations": {"summary": name}, "state": "firing"}
        for name in ("OneDisk", "GpuLost")
    ]
    alerts = Alerts(recorder.url, people, tmp_path)
    for _ in range(3):
        await alerts.once()
    assert [post["message"] for post in recorder.posts] == ["OneDisk", "GpuLost"]
    recorder.posts.clear()
    chosen = settings(own_stack, recorder, tmp_path)
    async with Bus(own_stack.nats_url, own_stack.seed_file("herald"), "herald") as bus:
        told = Herald(chosen, bus, people)
        await told.once()
        for version in (1, 2):
            await publish(own_stack, version)
            await told.once()
        await told.once()
        # An address that is taken away and given again is told what happens from then on.
        Herald(chosen, bus, people[:1])
        await publish(own_stack, 3)
        await Herald(chosen, bus, people).once()
    assert [post["message"] for post in recorder.posts] == [
        "main v001 is kept in 3 copies",
        "main v002 is kept in 3 copies",
    ]


def test_a_wrong_address_is_named_by_its_place_and_never_shown() -> None:
    with pytest.raises(ValueError, match="address 2 of") as found:
        addresses("json://127.0.0.1:1 nonsense-with-a-password")
    assert "password" not in str(found.value)


def test_commas_within_an_address_are_its_own() -> None:
    given = "mailto://u:p@host.org?to=a@x.org,b@y.org,json://127.0.0.1:1/a\n json://127.0.0.1:1/b"
    assert len(addresses(given)) == 3
    assert addresses(" \n") == []


async def test_bus_and_stores_are_measured(own_stack: Stack) -> None:
    stores = {"store": f"{own_stack.store_url}/status", "backup": "http://127.0.0.1:1/"}
    await Poll(own_stack.bus_server, stores).once()

    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, labels)

    assert value("duramen_bus_up") == 1
    assert value("duramen_bus_sync_always") == 1
    assert value("duramen_store_up", place="store") == 1
    assert value("duramen_store_up", place="backup") == 0
    assert (value("duramen_bus_stream_max_bytes", stream="JOBS") or 0) > 0
    await asyncio.to_thread(own_stack.kill, "nats")
    await Poll(own_stack.bus_server, {}).once()
    assert value("duramen_bus_up") == 0
