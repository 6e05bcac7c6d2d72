"""Connections to a service's HTTP side, which no client can hold for nothing.

A request's header must be whole within HEADER_SECONDS, its body must arrive at a lowest speed, and
there are at most MOST_CONNECTIONS. The oldest that waits for a header makes room for a new one, so
that whoever opens connections and says nothing shuts nobody out.
"""

import asyncio
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

from shared import log

MOST_CONNECTIONS = 128
HEADER_SECONDS = 10.0
BODY_SECONDS = 60.0  # and one more for each of:
BODY_BYTES_A_SECOND = 1024
DEADLINE_LOOK_SECONDS = 1.0
WARN_SECONDS = 60.0


class BoundedConnection(H11Protocol):
    """A connection with deadlines. `since`: when it began to wait for a header or for a body."""

    since = 0.0
    received = 0  # bytes of the request that is now read
    told = -WARN_SECONDS  # of all connections: when it was last said that there are too many

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, for which another may have to go; refuse it if none can."""
        others = [each for each in self.connections if isinstance(each, BoundedConnection)]
        super().connection_made(transport)
        self.since = time.monotonic()
        self._look_later()
        if len(others) < MOST_CONNECTIONS:
            return
        waiting = [each for each in others if each.waits_for_header]
        self._warn()
        min(waiting, key=lambda each: each.since, default=self).transport.abort()

    @property
    def waits_for_header(self) -> bool:
        """True where no request is being read or answered."""
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Count what arrives; a header that is whole begins the time of its body."""
        waited = self.waits_for_header
        super().data_received(data)
        if waited and not self.waits_for_header:
            self.since, self.received = time.monotonic(), 0
        self.received += len(data)

    def on_response_complete(self) -> None:
        """Begin the time of the next header."""
        self.since = time.monotonic()
        super().on_response_complete()

    def _is_late(self) -> bool:
        waited = time.monotonic() - self.since
        if self.waits_for_header:
            return waited > HEADER_SECONDS
        reads = self.cycle.more_body and not self.flow.read_paused  # else it waits for us
        return reads and waited > BODY_SECONDS + self.received / BODY_BYTES_A_SECOND

    def _look_later(self) -> None:
        self.loop.call_later(DEADLINE_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        if self._is_late():
            self.transport.abort()
        else:
            self._look_later()

    @classmethod
    def _warn(cls) -> None:
        if time.monotonic() - BoundedConnection.told > WARN_SECONDS:
            BoundedConnection.told = time.monotonic()
            log.get().warning("too_many_connections", most=MOST_CONNECTIONS)
