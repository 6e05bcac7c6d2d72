"""The ports of an embedded run, as a settings class: all follow from one base."""

import random
from typing import Any, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.ports import DEFAULT_BASE, HOST, OFFSETS, PREFIX, is_taken, port_setting


class PortTaken(Exception):
    """A port is used by another program; the message names the setting to change."""


class Ports(BaseSettings):
    """The TCP ports on 127.0.0.1. A port that is not set is `base` plus a fixed offset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    base: int = Field(default=DEFAULT_BASE, ge=1024, le=65400)
    nats: int
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
        base = int(values.get("base", DEFAULT_BASE))
        return {**from_base(base), **values}

    @model_validator(mode="after")
    def distinct(self) -> Self:
        seen: dict[int, str] = {}
        for name, port in self.by_name().items():
            if port in seen:
                raise ValueError(
                    f"{port_setting(seen[port])} and {port_setting(name)} are both {port}"
                )
            seen[port] = name
        return self

    @classmethod
    def names(cls) -> list[str]:
        return [name for name in cls.model_fields if name != "base"]

    def by_name(self) -> dict[str, int]:
        """Return all ports, without `base`."""
        return {name: getattr(self, name) for name in self.names()}

    def url(self, name: str) -> str:
        return f"http://{HOST}:{getattr(self, name)}"

    def refuse_taken(self) -> None:
        """Raise PortTaken, naming every port that somebody else listens on, and its setting."""
        taken = [
            f"{port} ({port_setting(name)})"
            for name, port in self.by_name().items()
            if is_taken(port)
        ]
        if taken:
            raise PortTaken(
                f"In use by another program on {HOST}: {', '.join(taken)}.\n"
                "Set DURAMEN_PORT_BASE (moves all ports), or the setting in brackets."
            )


def from_base(base: int) -> dict[str, int]:
    return {name: base + OFFSETS[name] for name in Ports.names()}


def free_ports() -> Ports:
    """Return ports that are free at this moment, for a test's own servers.

    They are below the range from which the kernel takes the ports of outgoing connections, so that
    none of those takes one before the servers listen.
    """
    while True:
        base = random.randrange(10240, 32000, 40)  # noqa: S311 - no secret
        numbers = from_base(base)
        if not any(is_taken(port) for port in numbers.values()):
            return Ports.model_validate({"base": base, **numbers})
