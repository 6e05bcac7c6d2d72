"""What is faster here than in nats-py, where a stream of many records is read."""

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
        """Of a name that stands twice the first value, which is what the server looked at."""
        found: dict[str, str] = {}
        for line in reversed(self.headers.decode("utf-8", "replace").split("\r\n")):
            name, colon, value = line.partition(":")
            if colon:
                found[name] = value.strip()
        return found


class Arrived:
    """What a subscription brought and nobody took yet."""

    def __init__(self) -> None:
        self.messages: list[Raw] = []
        self.some = asyncio.Event()

    def put(self, message: Raw) -> None:
        self.messages.append(message)
        if not self.some.is_set():
            self.some.set()

    async def take(self) -> list[Raw]:
        """All that are there, at least one. Raises TimeoutError if none comes for 5 s."""
        async with asyncio.timeout(5):
            await self.some.wait()
        self.some.clear()
        taken, self.messages = self.messages, []
        return taken


class Connection(Client):
    """nats-py's client, with a short way for subscriptions that read a stream: theirs is a queue, a
    task and a look at each letter of a header's name, which is most of what reading costs."""

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
    """Return what to tell of a connection to `url` that was not made."""
    if isinstance(error, nats.errors.NoServersError):
        return BusUnavailable(f"No bus listens at {url}.", next_step=START)
    if isinstance(error, OSError | TimeoutError | nats.errors.TimeoutError):
        why = str(error) or "it does not say why"
        return BusUnavailable(f"No bus answers at {url}: {why}.", next_step=START)
    return BusUnavailable(f"The bus at {url} refuses the connection: {error}")
