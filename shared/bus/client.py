"""The client of the bus: one small module around nats-py.

It does three things only: append a record by compare-and-set, read a stream from a sequence, and
publish a plain message. A wake-up is a core subscription; nothing depends on one being delivered.

Every choice was measured with nats-server 2.15.1 and nats-py 2.16 (docs/decisions/0002).
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import nats.errors
from nats.aio.msg import Msg
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from shared import log
from shared.bus.connection import Arrived, Connection, connection_away
from shared.bus.entry import EXPECTED, Entry, entry_of
from shared.bus.marks import Marks
from shared.bus.skipped import SKIPPED_RANGES, parse_skipped
from shared.errors import BusFull, BusUnavailable, BusWentBack, Conflict
from shared.foreign.json_bytes import json_object
from shared.protocol.events import Event
from shared.protocol.names import event_subject, lease_subject, observed_subject
from shared.protocol.observed import Lease, Observed
from shared.protocol.records import Record
from shared.settings import Settings

EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
MESSAGE_ID = "Nats-Msg-Id"
WRONG_SEQUENCE = {10071, 10164}
MAXIMUM_EXCEEDED = 10077
APPEND_SECONDS = 30.0
IMPATIENT_SECONDS = 3.0  # a bus that takes connections and then says nothing
CATCH_UP_SECONDS = 10.0
T = TypeVar("T")
UNKNOWN_OUTCOME = (TimeoutError, NoStreamResponseError, nats.errors.Error)


class Bus:
    """A connection to the bus. Use `async with Bus(...)`; its errors are in shared/errors.py."""

    def __init__(
        self,
        url: str,
        seed_file: Path | str | None,
        name: str,
        state_dir: Path | None = None,
        ca: Path | None = None,
    ) -> None:
        self.url, self.seed_file, self.name, self.ca = url, seed_file, name, ca
        self.marks = Marks(state_dir / "marks.json" if state_dir else None)
        self.unbroken_since = 0.0
        self.went_back: BusWentBack | None = None
        self._unchecked = True
        self._nc = Connection()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the connection of a service, which keeps its marks in the service's own folder."""
        at = settings.nats_url, settings.nats_seed_file
        return cls(*at, settings.service, settings.state_dir, settings.nats_ca)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self, *, patient: bool = True) -> None:
        """Connect. A patient client waits until the server is there, however long that takes.

        Raises BusUnavailable: for an impatient client within IMPATIENT_SECONDS, for a patient one
        only if the server refuses it.
        """
        options: dict[str, Any] = {"reconnect_time_wait": 0.5 if patient else 0.05}
        if self.seed_file is not None:
            options["nkeys_seed"] = str(self.seed_file)
        if self.ca is not None:
            options["tls"] = ssl.create_default_context(cafile=self.ca)
        while True:
            try:
                self._nc = Connection()
                async with asyncio.timeout(None if patient else IMPATIENT_SECONDS):
                    await self._nc.connect(
                        self.url,
                        name=self.name,
                        inbox_prefix=f"_INBOX_{self.name}",
                        max_reconnect_attempts=-1 if patient else 1,  # 0 would mean "no limit"
                        allow_reconnect=patient,
                        ping_interval=10,
                        max_outstanding_pings=2,
                        connect_timeout=3,
                        error_cb=self._on_error,
                        disconnected_cb=self._on_disconnect,
                        reconnected_cb=self._on_reconnect,
                        **options,
                    )
                break
            except (OSError, TimeoutError, nats.errors.Error) as error:
                if not patient or isinstance(error, nats.errors.AuthorizationError):
                    raise connection_away(self.url, error) from error
                log.get().warning("bus_waiting", url=self.url, error=str(error))
                await asyncio.sleep(0.5)
        self._js = self._nc.jetstream(timeout=5)
        self.unbroken_since = asyncio.get_running_loop().time()

    async def close(self) -> None:
        if not self._nc.is_closed:
            await self._nc.close()

    async def _on_error(self, error: Exception) -> None:
        log.get().warning("bus_error", error=str(error))

    async def _on_disconnect(self) -> None:
        self._unchecked = True
        self.unbroken_since = float("inf")

    async def _on_reconnect(self) -> None:
        self._unchecked = True
        self.unbroken_since = asyncio.get_running_loop().time()
        log.get().info("bus_reconnected")

    async def ping(self, seconds: float = 2.0) -> None:
        """Make a real round trip. Raises BusUnavailable."""
        try:
            await self._nc.flush(timeout=seconds)  # type: ignore[arg-type]  # int in its stub only
        except UNKNOWN_OUTCOME as error:
            raise BusUnavailable(f"The bus does not answer within {seconds} s.") from error

    async def subscribe(self, subject: str, wake: Callable[[], None]) -> None:
        """Call `wake` for each message. A message may be lost, so callers poll as well."""

        async def deliver(_: Msg) -> None:
            wake()

        await self._nc.subscribe(subject, cb=deliver)

    # ---- reading ---------------------------------------------------------------------------------

    async def bounds(self, stream: str) -> tuple[int, int]:
        """Return the (first, last) sequence of a stream; last is first - 1 if it is empty."""
        state = (await self._call(lambda: self._js.stream_info(stream))).state
        return state.first_seq, state.last_seq

    async def bytes_of(self, stream: str) -> tuple[int, int]:
        """Return the bytes that a stream takes and may take. Raises BusUnavailable."""
        found = await self._call(lambda: self._js.stream_info(stream))
        return found.state.bytes, found.config.max_bytes or 0

    async def lost_before(self, stream: str) -> datetime | None:
        """Return the time before which messages have left a stream.

        That is when the server stored the oldest message that is left, or now if the stream is
        empty. None if the stream still holds its first message.
        """
        state = (await self._api(f"$JS.API.STREAM.INFO.{stream}", {}))["state"]
        if state["first_seq"] <= 1:
            return None
        return datetime.fromisoformat(state["first_ts"]) if state["messages"] else datetime.now(UTC)

    async def is_skipped(self, stream: str, sequence: int) -> bool:
        """Return whether a recovery left this sequence out, as one that may have been given."""
        config = (await self._api(f"$JS.API.STREAM.INFO.{stream}", {}))["config"]
        ranges = parse_skipped((config.get("metadata") or {}).get(SKIPPED_RANGES, ""))
        return any(first <= sequence <= last for first, last in ranges)

    async def clock(self) -> datetime:
        """Return the time by the server's clock."""
        return datetime.fromisoformat((await self._api("$JS.API.STREAM.INFO.OBS", {}))["ts"])

    async def get(self, stream: str, sequence: int) -> Entry | None:
        return await self._get(stream, seq=sequence)

    async def last(self, stream: str, subject: str) -> Entry | None:
        """Return the last message under a subject or wildcard, read from the leader, or None."""
        return await self._get(stream, subject=subject)

    async def _get(self, stream: str, **which: Any) -> Entry | None:
        try:
            message = await self._call(lambda: self._js.get_msg(stream, direct=False, **which))
        except NotFoundError:
            return None
        subject, headers = message.subject or "", dict(message.headers or {})
        return Entry(stream, message.seq or 0, subject, message.data or b"", headers, message.time)

    async def read(
        self, stream: str, after: int = 0, subject: str | None = None, batch: int = 1000
    ) -> AsyncIterator[Entry]:
        """Yield all entries after a sequence, up to the end that the stream has now.

        The consumer is an ephemeral pull consumer that is deleted afterwards: there is nothing to
        resume, and nothing leaks. `fetch` of nats-py is not used, because it may keep messages in a
        buffer that nobody reads.
        """
        name, pending = await self._consumer(stream, after, subject)
        inbox, arrived = self._nc.new_inbox(), Arrived()
        subscription = await self._nc.subscribe(inbox)
        self._nc.readers[subscription._id] = arrived
        asked = seen = 0
        try:
            while seen < pending:
                while asked < pending and asked - seen <= batch:  # the next batch travels meanwhile
                    want = min(batch, pending - asked)
                    request = json.dumps({"batch": want, "no_wait": True}).encode()
                    next_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
                    await self._nc.publish(next_subject, request, reply=inbox)
                    asked += want
                for message in await self._call(arrived.take):
                    if message.subject == inbox:  # a status: there is nothing more
                        return
                    seen += 1
                    yield entry_of(stream, message)
        finally:
            self._nc.readers.pop(subscription._id, None)
            with suppress(nats.errors.Error):  # closed meanwhile: the server forgets it by itself
                await subscription.unsubscribe()
                await self._nc.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}", b"")

    async def read_through(
        self, stream: str, after: int, last: int, subject: str | None = None
    ) -> AsyncIterator[Entry]:
        """Yield all entries after a sequence, reading again until `last` was read.

        The leader has named `last`. In a cluster a consumer may be on a server that is behind the
        leader, and bring fewer entries. Raises BusUnavailable if that server does not catch up
        within 10 s.
        """
        deadline = asyncio.get_running_loop().time() + CATCH_UP_SECONDS
        while after < last:
            async for entry in self.read(stream, after, subject):
                after = entry.sequence
                yield entry
            if after >= last or await self.get(stream, last) is None:
                return  # an empty stream names a last sequence, too
            if asyncio.get_running_loop().time() > deadline:
                raise BusUnavailable(f"{stream} ends at {last} and could be read to {after} only.")
            await asyncio.sleep(0.05)

    async def _consumer(self, stream: str, after: int, subject: str | None) -> tuple[str, int]:
        """Create an ephemeral consumer; return its name, and how many messages it will bring."""
        config: dict[str, Any] = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "mem_storage": True,
            "inactive_threshold": 30_000_000_000,
            "num_replicas": 1,
        }
        name = f"{self.name}-{os.urandom(6).hex()}"
        create = f"$JS.API.CONSUMER.CREATE.{stream}.{name}"
        if subject is not None:
            config["filter_subject"] = subject
            create += f".{subject}"
        reply = await self._api(
            create, {"stream_name": stream, "config": {**config, "name": name}, "action": "create"}
        )
        return name, int(reply["num_pending"])

    async def _api(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        message = await self._call(
            lambda: self._nc.request(subject, json.dumps(body).encode(), timeout=5)
        )
        try:
            reply = json_object(message.data)
        except ValueError as error:
            raise BusUnavailable(f"{subject}: the answer cannot be read: {error}") from error
        if "error" in reply:
            raise BusUnavailable(f"{subject}: {reply['error'].get('description')}")
        return reply

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await call()
        except NotFoundError:
            raise
        except (TimeoutError, APIError, nats.errors.Error, NoStreamResponseError) as error:
            raise BusUnavailable(f"The bus does not answer: {error!r}") from error

    # ---- writing ---------------------------------------------------------------------------------

    async def check_marks(self) -> None:
        """Compare what was acknowledged with what the bus holds. Raises BusWentBack."""
        settled = []
        for stream, (sequence, nonce) in self.marks.marks.items():
            first, _ = await self.bounds(stream)
            if first > sequence:
                continue  # rebuilt above all that was known: a new epoch
            entry = await self.get(stream, sequence)
            if entry is None and await self.is_skipped(stream, sequence):
                settled.append(stream)
                continue
            if entry is None or entry.nonce != nonce:
                self.went_back = BusWentBack(stream, sequence)
                raise self.went_back
        for stream in settled:
            self.marks.forget(stream)
        self._unchecked = False

    async def append(
        self, stream: str, subject: str, wildcard: str, record: Record, last: int
    ) -> int:
        """Publish a record if `last` is still the last sequence under `wildcard`.

        Returns the record's sequence. If the outcome is unknown, the record is sent again with the
        same nonce until it is known. Raises Conflict if another record came first, BusFull,
        BusUnavailable after 30 s, BusWentBack.
        """
        deadline = asyncio.get_running_loop().time() + APPEND_SECONDS
        while True:
            if self.went_back is not None:
                raise self.went_back
            try:
                if self._unchecked:
                    await self.check_marks()
                sequence = await self._append_once(stream, subject, wildcard, record, last)
                break
            except (*UNKNOWN_OUTCOME, BusUnavailable) as error:
                if asyncio.get_running_loop().time() > deadline or self._nc.is_closed:
                    raise BusUnavailable(f"{subject}: outcome unknown: {error!r}") from error
                await asyncio.sleep(0.2)
        self.marks.note(stream, sequence, record.nonce)
        return sequence

    async def _append_once(
        self, stream: str, subject: str, wildcard: str, record: Record, last: int
    ) -> int:
        headers = {EXPECTED: str(last), EXPECTED_SUBJECT: wildcard, MESSAGE_ID: record.nonce}
        try:
            ack = await self._js.publish(subject, record.encode(), timeout=5, headers=headers)
            return ack.seq
        except APIError as error:
            if error.err_code == MAXIMUM_EXCEEDED:
                raise BusFull(f"Stream {stream} is full.") from error
            if error.err_code not in WRONG_SEQUENCE:
                raise  # a server that is still starting answers 503
            # Ours may be in the history although others have written since.
            found = await self._find(stream, wildcard, last, record.nonce)
            if found is None:
                raise Conflict(subject, last) from error
            return found

    async def _find(self, stream: str, wildcard: str, after: int, nonce: str) -> int | None:
        newest = await self.last(stream, wildcard)
        last = newest.sequence if newest else 0
        async for entry in self.read_through(stream, after, last, wildcard):
            if entry.nonce == nonce:
                return entry.sequence
        return None

    async def event(self, event: Event) -> None:
        """Publish an event, and wait until it is acknowledged. Raises BusUnavailable."""
        await self._publish(event_subject(event.service, event.kind), event.encode())

    async def observe(self, observed: Observed) -> None:
        await self._publish(
            observed_subject(observed.service, observed.instance), observed.encode()
        )

    async def lease(self, what: str, lease: Lease, last: int) -> int:
        """Create (`last` is 0) or renew a lease by compare-and-set; return its sequence.

        Raises Conflict, BusUnavailable.
        """
        return await self._publish(lease_subject(what), lease.encode(), last)

    async def _publish(self, subject: str, data: bytes, last: int | None = None) -> int:
        headers = None if last is None else {EXPECTED: str(last)}
        try:
            return (await self._js.publish(subject, data, timeout=5, headers=headers)).seq
        except APIError as error:
            if last is not None and error.err_code in WRONG_SEQUENCE:
                raise Conflict(subject, last) from error
            raise BusUnavailable(f"{subject}: {error.description}") from error
        except UNKNOWN_OUTCOME as error:
            raise BusUnavailable(f"{subject}: {error!r}") from error
