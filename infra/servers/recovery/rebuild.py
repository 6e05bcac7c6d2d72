"""A stream made again from its exported records, each under the sequence that it had.

So every fence, every version's ledger sequence and every mark means what it meant. Sequences that
the lost bus may have given since are passed over: they are filled, and what filled them is purged.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import NotFoundError

from infra.servers.recovery.source import NotRecoverable
from infra.servers.streams import stream_config
from shared.bus.client import MESSAGE_ID
from shared.bus.skipped import SKIPPED_RANGES, UNFINISHED, skipped_text
from shared.formats.bus_export import ExportedRecord

PASSED_OVER = 5000  # sequences above all that are known to have been given
WINDOW = 256  # records on their way
FILLERS = {"JOBS": "jobs.passed-over", "CTL": "ctl.once.passed-over", "EVT": "evt.bus.passed-over"}


@dataclass
class StreamBuilder:
    """One stream while it is filled. `ranges`: what was passed over in it."""

    js: JetStreamContext
    name: str
    start: int
    ranges: list[tuple[int, int]] = field(default_factory=list)
    _next: int = 0
    _sent: list[tuple[int, "asyncio.Future[PubAck]"]] = field(default_factory=list)

    async def begin(self) -> None:
        """Replace the stream by an empty one, which says that it is not whole."""
        with suppress(NotFoundError):
            await self.js.delete_stream(self.name)
        config = stream_config(self.name).evolve(
            deny_delete=False,
            deny_purge=False,
            first_seq=self.start,
            metadata={UNFINISHED: "yes"},
        )
        await self.js.add_stream(config)
        self._next = self.start

    async def add(self, record: ExportedRecord) -> None:
        """Publish a record under the sequence that it had. Raises NotRecoverable."""
        if record.sequence > self._next:
            await self.pass_over(record.sequence - 1)
        headers = {name: said for name, said in record.headers.items() if name != MESSAGE_ID}
        await self._publish(record.subject, record.body, headers)

    async def pass_over(self, last: int) -> None:
        """Leave out all sequences up to `last`, which then are not given again."""
        self.ranges.append((self._next, last))
        while self._next <= last:
            await self._publish(FILLERS[self.name], b"", {})

    async def finish(self, above: int) -> None:
        """Pass over what may have been given, up to `above`; then guard the stream again."""
        await self.pass_over(max(above, self._next - 1) + PASSED_OVER)
        await self._settle()
        await self.js.purge_stream(self.name, subject=FILLERS[self.name])
        metadata = {SKIPPED_RANGES: skipped_text(self.ranges)}
        await self.js.update_stream(
            stream_config(self.name).evolve(first_seq=self.start, metadata=metadata)
        )

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        sent = await self.js.publish_async(subject, data, headers=headers or None)
        self._sent.append((self._next, sent))
        self._next += 1
        if len(self._sent) >= WINDOW:
            await self._settle()

    async def _settle(self) -> None:
        """Wait for what is on its way. Raises NotRecoverable if the server gave another number."""
        sent, self._sent = self._sent, []
        for sequence, future in sent:
            ack = await future
            if ack.seq != sequence:
                raise NotRecoverable(
                    f"{self.name}: the bus took record {sequence} as {ack.seq}: somebody else "
                    "writes to it.",
                    next_step="stop all services, then duramen recover again",
                )


async def rebuild(
    js: JetStreamContext,
    streams: dict[str, int],
    records: Iterable[ExportedRecord],
    above: dict[str, int],
) -> dict[str, list[tuple[int, int]]]:
    """Make the streams again, each from its first sequence; return what was passed over in each.

    `above`: the highest sequence of each that is known to have been given.
    """
    builders = {name: StreamBuilder(js, name, start) for name, start in streams.items()}
    for builder in builders.values():
        await builder.begin()
    for record in records:
        if record.stream in builders:
            await builders[record.stream].add(record)
    await asyncio.gather(*(each.finish(above.get(name, 0)) for name, each in builders.items()))
    return {name: builder.ranges for name, builder in builders.items()}


@asynccontextmanager
async def administrator(url: str, seed: str) -> AsyncIterator[Client]:
    """Yield a connection of the administrator, who alone may replace a stream."""
    connection = await nats.connect(
        url, nkeys_seed=seed, name="recover", inbox_prefix=b"_INBOX_admin", allow_reconnect=False
    )
    try:
        yield connection
    finally:
        await connection.close()
