"""A connection that reads a stream of many records faster than nats-py does."""

import asyncio
from typing import NamedTuple

import nats.errors
from nats.aio.client import Client

from shared.errors import START, BusUnavailable


class Raw(NamedTuple):
    """A message as the server sent it."""

    subject: str
    reply: str
    data: bytes
    headers: bytes

    def parsed_headers(self) -> dict[str, str]:
        """Return the headers by name.

        If a name occurs twice, its first value counts, because that is the one the server looked
        at.
        """
        found: dict[str, str] = {}
        for line in reversed(self.headers.decode("utf-8", "replace").split("\r\n")):
            name, colon, value = line.partition(":")
            if colon:
                found[name] = value.strip()
        return found


class Arrived:
    """The messages that a subscription received and nobody has taken yet."""

    def __init__(self) -> None:
        self.messages: list[Raw] = []
        self.some = asyncio.Event()

    def put(self, message: Raw) -> None:
        self.messages.append(message)
        if not self.some.is_set():
            self.some.set()

    async def take(self) -> list[Raw]:
        """Return all messages that are there, at least one.

        Raises TimeoutError if none comes for 5 s.
        """
        async with asyncio.timeout(5):
            await self.some.wait()
        self.some.clear()
        taken, self.messages = self.messages, []
        return taken


class Connection(Client):
    """A client of nats-py with a faster path for subscriptions that read a stream.

    The path of nats-py uses a queue, a task and a look at each letter of a header's name, which is
    most of what reading costs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, Arrived] = {}

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        reader = self.readers.get(sid)
        if reader is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            reader.put(Raw(subject.decode(), reply.decode(), data, headers or b""))


def connection_away(url: str, error: Exception) -> BusUnavailable:
    """Return the error for a connection to `url` that could not be made."""
    if isinstance(error, nats.errors.NoServersError):
        return BusUnavailable(f"No bus listens at {url}.", next_step=START)
    if isinstance(error, OSError | TimeoutError | nats.errors.TimeoutError):
        why = str(error) or "it does not say why"
        return BusUnavailable(f"No bus answers at {url}: {why}.", next_step=START)
    return BusUnavailable(f"The bus at {url} refuses the connection: {error}")
