"""Proxy variables name the way to the world: our own addresses are never asked through a proxy."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.local.programs import ROOT
from infra.servers.bootstrap import bootstrap
from services.herald import poll
from services.herald.alerts import Alerts
from services.herald.grafana import Grafana
from services.herald.happenings import Happening
from tests.command_line import duramen, evolution_service
from tests.compose.recorder import recording
from tests.ports import own_ports
from tests.stack import Stack

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# What asks the environment for a proxy, outside shared/reach.py. The hub's library is meant to.
ASKING = re.compile(
    r"httpx\.(get|post|put|head|request|stream|Client|AsyncClient)\(|urlopen\(|requests\.(get|post|"
    r"request|Session)\(|ProxyManager|urllib3\.PoolManager\("
)


@pytest.fixture
def refusing_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables that name a port at which nothing listens."""
    for name in NAMES:
        for written in (name, name.lower()):
            monkeypatch.setenv(written, own_ports().url("console"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("refusing_proxy")
def test_services_and_commands_reach_each_other(stack: Stack, tmp_path: Path) -> None:
    state = tmp_path / "evolution"
    with evolution_service(stack, state) as evolution:
        done = duramen(stack, "doctor", "--json", evolution_url=evolution.url)
        found = {each["what"]: each for each in json.loads(done.stdout)}
        for what in ("bus", "bus durability", "store", "backup", "evolution"):
            assert found[what]["ok"], found[what]
        listed = duramen(stack, "evolution", "list", "--json", evolution_url=evolution.url)
        assert listed.returncode == 0, listed.stderr
        port = evolution.url.rpartition(":")[2]
        health = [sys.executable, "-m", "shared.service.health"]
        environment = {**os.environ, "DURAMEN_HTTP_PORT": port}
        assert subprocess.run(health, cwd=ROOT, env=environment).returncode == 0
    assert duramen(stack, "status").returncode == 0


@pytest.mark.usefixtures("refusing_proxy")
async def test_servers_are_provisioned_and_measured(stack: Stack) -> None:
    await bootstrap(stack.bootstrap_settings())
    health = {"store": f"{stack.store_url}/status", "backup": f"{stack.backup_url}/status"}
    await poll.Poll(stack.bus_server, health).once()
    assert poll.BUS_UP._value.get() == 1
    assert [poll.STORE_UP.labels(place)._value.get() for place in health] == [1, 1]


@pytest.mark.usefixtures("refusing_proxy")
async def test_happenings_and_alerts_reach_grafana_and_come_from_prometheus(tmp_path: Path) -> None:
    with recording() as recorder:
        happening = Happening("JOBS", 1, "done", "a job is done", datetime.now(UTC))
        await Grafana(recorder.url, "secret").deliver(happening)
        assert len(recorder.annotations) == 1
        assert await Alerts(recorder.url, [], tmp_path).alerts() == {
            "firing": {},
            "pending": {},
        }


def test_nothing_else_asks_the_environment_for_a_proxy() -> None:
    rooms = [ROOT / name for name in ("infra", "services", "shared")]
    files = [file for room in rooms for file in room.rglob("*.py")]
    asking = {str(file.relative_to(ROOT)) for file in files if ASKING.search(file.read_text())}
    assert asking <= {"shared/reach.py"}
