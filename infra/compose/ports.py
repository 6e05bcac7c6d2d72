"""The ports that the containers publish, all on 127.0.0.1. Standard library alone.

The same numbers as those of the embedded run: DURAMEN_PORT_BASE moves them all, DURAMEN_PORT_STORE,
… one. What is not in the table is never published.
"""

import socket
from collections.abc import Mapping

HOST = "127.0.0.1"
PORTS = {
    "nats": 2,
    "store": 10,
    "backup": 20,
    "ingest": 30,
    "trainer": 31,
    "vault": 32,
    "evolution": 33,
    "grafana": 35,
    "herald": 36,
}
DEFAULT_BASE = 4220


def setting(name: str) -> str:
    return f"DURAMEN_PORT_{name.upper()}"


def chosen(settings: Mapping[str, str]) -> dict[str, int]:
    """Each port by name, from DURAMEN_PORT_* in `settings`."""
    base = int(settings.get("DURAMEN_PORT_BASE") or DEFAULT_BASE)
    return {name: int(settings.get(setting(name)) or base + n) for name, n in PORTS.items()}


def is_taken(port: int) -> bool:
    """True if another program listens on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False
