"""Real servers for tests: one NATS server and two stores, provisioned by the bootstrap."""

import asyncio
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
from minio import Minio
from nats.aio.client import Client

from infra.local.environment import inner_urls, process_environment, settings_for
from infra.local.home import Home
from infra.local.ports import Ports
from infra.local.programs import spawn
from infra.local.servers import Server, servers
from infra.secrets.secrets import Keys, Secrets
from infra.servers.bootstrap import BootstrapSettings, bootstrap
from infra.servers.buckets import client, connections
from shared.bus.system import BusServer
from tests.ports import own_ports

START_SECONDS = 60
STOP_SECONDS = 25


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until `condition`; TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


class Stack:
    """The servers of one test session, or of one test that kills them."""

    def __init__(self, root: Path) -> None:
        self.home = Home.make(root)
        self.ports: Ports = own_ports()
        self.secrets = Secrets.ensure(self.home.secrets)
        self.servers: dict[str, Server] = {
            s.name: s for s in servers(self.home, self.ports, self.secrets)
        }
        self.pool = connections()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def nats_url(self) -> str:
        return f"nats://127.0.0.1:{self.ports.nats}"

    @property
    def store_url(self) -> str:
        return self.ports.url("store")

    @property
    def backup_url(self) -> str:
        return self.ports.url("backup")

    @property
    def bus_server(self) -> BusServer:
        return BusServer(self.nats_url, self.seed_file("monitor"))

    def seed_file(self, service: str) -> Path:
        """nkey seed of ingest, trainer, vault, evolution, ctl or admin."""
        return self.secrets.seed_file(service)

    def keys(self, identity: str, server: str = "store") -> Keys:
        return self.secrets.keys(identity, server)

    def minio(self, identity: str, server: str = "store") -> Minio:
        return self.minio_with(self.keys(identity, server), server)

    def minio_with(self, keys: Keys, server: str) -> Minio:
        """A client of `server` with any keys."""
        return client(self.ports.url(server), keys, self.pool)

    def env(self, service: str) -> dict[str, str]:
        """The DURAMEN_* settings that the supervisor would give `service` (or "ctl")."""
        return settings_for(service, self.home, self.ports, self.secrets)

    async def connect(self, service: str, **options: Any) -> Client:
        """A bus connection with the credentials of `service`."""
        return await nats.connect(
            self.nats_url,
            **{
                "nkeys_seed": str(self.seed_file(service)),
                "inbox_prefix": f"_INBOX_{service}".encode(),
                "name": service,
                **options,
            },
        )

    def bootstrap_settings(self, **changes: Any) -> BootstrapSettings:
        values: dict[str, Any] = {
            "nats_url": self.nats_url,
            "store_url": self.store_url,
            "backup_url": self.backup_url,
            "secrets_dir": self.home.secrets,
            "store_inner_urls": inner_urls(self.ports, "store"),
            "backup_inner_urls": inner_urls(self.ports, "backup"),
        }
        return BootstrapSettings(**{**values, **changes})

    def spawn(self, name: str) -> None:
        """Start a server without waiting for it. It dies with this process."""
        command, log = self.servers[name].prepare(), self.home.log(name)
        # They live for seconds: what they collect as garbage costs a fifth of their time.
        environment = process_environment({"GOGC": "400"})
        self.processes[name] = spawn(command, log, environment)

    def start(self, name: str) -> None:
        """Start a server and wait until it is healthy."""
        self.spawn(name)
        self._await(name)

    def _await(self, name: str) -> None:
        process, server = self.processes[name], self.servers[name]

        def up() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended:\n{self.home.log(name).read_text()[-2000:]}")
            return server.healthy()

        wait_until(up, START_SECONDS, f"{name} is healthy")

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self._end(name, signal.SIGKILL)

    def stop(self, name: str) -> None:
        """SIGTERM, and wait for the end: 15 s for a store, which drains its connections."""
        self._end(name, signal.SIGTERM)

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self, name: str) -> None:
        self.stop(name)
        self.start(name)

    def up(self, *, provision: bool = True) -> "Stack":
        """Start all three at once, then provision them; what that sets is kept on their disks."""
        for name in self.servers:
            self.spawn(name)
        for name in self.servers:
            self._await(name)
        if not provision:
            return self
        for server in self.servers.values():
            server.settle()
        settings = self.bootstrap_settings()
        # A thread of its own: the caller may be inside a running event loop.
        run_in_thread(lambda: asyncio.run(bootstrap(settings)))
        return self

    def down(self) -> None:
        """End all servers, as fast as it goes: nothing of them is kept."""
        for name in list(self.processes):
            self.kill(name)
        self.pool.clear()


def run_in_thread(work: Callable[[], object]) -> None:
    """Run `work` in a thread and wait; what it raises is raised here."""
    failure: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failure.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
