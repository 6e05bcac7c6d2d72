"""The ports on which everything listens on 127.0.0.1, embedded or in containers.

DURAMEN_PORT_BASE moves all ports (default 4220: 4220 to 4259 are used); DURAMEN_PORT_NATS,
DURAMEN_PORT_STORE, … move one. Uses only the standard library.
"""

import socket

HOST = "127.0.0.1"
PREFIX = "DURAMEN_PORT_"
DEFAULT_BASE = 4220
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
OFFSETS = {  # name -> number above the base
    "nats": 2,
    **{f"store{part}": 10 + n for n, part in enumerate(STORE_PARTS)},
    **{f"backup{part}": 20 + n for n, part in enumerate(STORE_PARTS)},
    "ingest": 30,
    "trainer": 31,
    "vault": 32,
    "evolution": 33,
    "console": 34,
    "grafana": 35,
    "herald": 36,
}


def port_setting(name: str) -> str:
    """Return the name of the environment variable that sets the port `name`."""
    return PREFIX + name.upper()


def is_taken(port: int) -> bool:
    """Return whether `port` cannot be listened on at 127.0.0.1."""
    with socket.socket() as probe:
        # Connections of an earlier run in TIME_WAIT do not hinder a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False
