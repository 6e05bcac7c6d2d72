"""The ports of an embedded run: one base, from which all follow; each can be set on its own.

DURAMEN_PORT_BASE moves them all (default 4220: 4220 to 4259 are used); DURAMEN_PORT_NATS,
DURAMEN_PORT_STORE, … move one. All listen on 127.0.0.1 only.
"""

import random
import socket
from typing import Any, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

HOST = "127.0.0.1"
PREFIX = "DURAMEN_PORT_"
STORE_PARTS = (
    "",
    "_grpc",
    "_master",
    "_master_grpc",
    "_volume",
    "_volume_grpc",
    "_filer",
    "_filer_grpc",
)
OFFSETS = {
    "nats": 2,
    "nats_monitor": 3,
    **{f"store{part}": 10 + n for n, part in enumerate(STORE_PARTS)},
    **{f"backup{part}": 20 + n for n, part in enumerate(STORE_PARTS)},
    "ingest": 30,
    "trainer": 31,
    "vault": 32,
    "evolution": 33,
    "console": 34,
}


class PortTaken(Exception):
    """A port is used by another program; the message names the setting to change."""


class Ports(BaseSettings):
    """TCP ports on 127.0.0.1. What is not set is `base` plus a fixed offset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    base: int = Field(default=4220, ge=1024, le=65400)
    nats: int
    nats_monitor: int
    store: int
    store_grpc: int
    store_master: int
    store_master_grpc: int
    store_volume: int
    store_volume_grpc: int
    store_filer: int
    store_filer_grpc: int
    backup: int
    backup_grpc: int
    backup_master: int
    backup_master_grpc: int
    backup_volume: int
    backup_volume_grpc: int
    backup_filer: int
    backup_filer_grpc: int
    ingest: int
    trainer: int
    vault: int
    evolution: int
    console: int

    @model_validator(mode="before")
    @classmethod
    def derive(cls, values: dict[str, Any]) -> dict[str, Any]:
        base = int(values.get("base", cls.model_fields["base"].default))
        return {**{name: base + offset for name, offset in OFFSETS.items()}, **values}

    @model_validator(mode="after")
    def distinct(self) -> Self:
        seen: dict[int, str] = {}
        for name, port in self.by_name().items():
            if port in seen:
                raise ValueError(f"{setting(seen[port])} and {setting(name)} are both {port}")
            seen[port] = name
        return self

    def by_name(self) -> dict[str, int]:
        """All ports, without `base`."""
        return {name: getattr(self, name) for name in OFFSETS}

    def url(self, name: str) -> str:
        return f"http://{HOST}:{getattr(self, name)}"

    def refuse_taken(self) -> None:
        """Raise PortTaken, naming every port that somebody else listens on, and its setting."""
        taken = [f"{port} ({setting(name)})" for name, port in self.by_name().items() if busy(port)]
        if taken:
            raise PortTaken(
                f"In use by another program on {HOST}: {', '.join(taken)}.\n"
                "Set DURAMEN_PORT_BASE (moves all ports), or the setting in brackets."
            )


def setting(name: str) -> str:
    """Name of the environment variable that sets the port `name`."""
    return PREFIX + name.upper()


def busy(port: int) -> bool:
    """True if `port` cannot be listened on at 127.0.0.1."""
    with socket.socket() as probe:
        # Connections of an earlier run in TIME_WAIT do not hinder a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def free_ports() -> Ports:
    """Ports that are free at this moment, for a test's own servers.

    Below the range from which the kernel takes the ports of outgoing connections, so that none
    of those slips in before the servers listen.
    """
    while True:
        base = random.randrange(10240, 32000, 40)  # noqa: S311 - no secret
        numbers = {name: base + offset for name, offset in OFFSETS.items()}
        if not any(busy(port) for port in numbers.values()):
            return Ports.model_validate({"base": base, **numbers})
