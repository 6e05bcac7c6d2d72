"""Ports that no other test on this machine takes while this process lives."""

import atexit
import socket

from infra.local.ports import Ports, free_ports
from infra.ports import HOST

HELD: list[socket.socket] = []  # no server uses UDP: who holds the base there has all its ports


def own_ports() -> Ports:
    """Return ports that are free now, and which nobody else who asks here is given."""
    while True:
        ports = free_ports()
        mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            mark.bind((HOST, ports.base))
        except OSError:
            mark.close()
            continue
        HELD.append(mark)
        return ports


@atexit.register
def release() -> None:
    for mark in HELD:
        mark.close()
