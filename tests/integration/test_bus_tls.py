"""The bus by TLS, on a server of its own."""

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.local.programs import spawn
from infra.local.servers import ServerMissing, binary
from infra.ports import is_taken
from infra.secrets.secrets import Secrets
from infra.servers.bootstrap import provision_bus
from infra.servers.nats.conf import NatsConf
from shared.bus.client import Bus
from shared.errors import BusUnavailable
from shared.protocol.events import Event
from tests.ports import own_ports
from tests.stack import wait_until


@dataclass(frozen=True)
class Secured:
    """A server with TLS on, and the secrets of its installation."""

    port: int
    secrets: Secrets

    @property
    def ca(self) -> Path:
        return self.secrets.bus_tls / "ca.pem"

    def bus(self, scheme: str, ca: Path | None) -> Bus:
        url = f"{scheme}://127.0.0.1:{self.port}"
        return Bus(url, self.secrets.seed_file("vault"), "vault", ca=ca)


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    ports, secrets = own_ports(), Secrets.ensure(tmp_path / "secrets")
    conf = NatsConf(tmp_path / "data", ports.nats, tls_dir=secrets.bus_tls)
    path = tmp_path / "nats.conf"
    path.write_text(conf.render(secrets))
    try:
        program = binary("nats-server")
    except ServerMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    server = spawn([str(program), "-c", str(path)], tmp_path / "log", dict(os.environ))
    try:
        wait_until(lambda: is_taken(ports.nats), 20, "nats listens")
        yield Secured(ports.nats, secrets)
    finally:
        server.kill()
        server.wait()


async def test_bootstrap_and_services_speak_to_a_bus_by_tls(secured: Secured) -> None:
    await provision_bus(f"tls://127.0.0.1:{secured.port}", secured.secrets, secured.ca)
    async with secured.bus("tls", secured.ca) as bus:
        await bus.event(Event(service="vault", kind="probe"))
        assert [entry.subject async for entry in bus.read("EVT")] == ["evt.vault.probe"]


async def test_who_cannot_tell_the_server_from_another_does_not_speak_to_it(
    secured: Secured, tmp_path: Path
) -> None:
    stranger = Secrets.ensure(tmp_path / "another").bus_tls / "ca.pem"
    for scheme, ca in (("tls", stranger), ("tls", None), ("nats", None)):
        with pytest.raises((BusUnavailable, ssl.SSLError)):
            await secured.bus(scheme, ca).connect(patient=False)
