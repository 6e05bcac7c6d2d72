"""The metrics of bus and stores, for Prometheus.

It cannot ask them itself: their own servers are never published, and not all of them speak its
format.
"""

import time
from collections.abc import Mapping
from typing import Any

import httpx
from prometheus_client import Gauge

from shared import reach
from shared.bus.system import BusServer
from shared.errors import BusUnavailable

BUS_UP = Gauge("duramen_bus_up", "1 if the bus' own health check answers.")
SYNC = Gauge("duramen_bus_sync_always", "1 if each acknowledged message is on the disk.")
MESSAGES = Gauge("duramen_bus_stream_messages", "Messages in a stream.", ["stream"])
BYTES = Gauge("duramen_bus_stream_bytes", "Bytes of a stream on the disk.", ["stream"])
MAX_BYTES = Gauge("duramen_bus_stream_max_bytes", "Bytes a stream may take.", ["stream"])
LAST = Gauge("duramen_bus_stream_last_sequence", "Last sequence of a stream.", ["stream"])
SLOW = Gauge("duramen_bus_slow_consumers", "Clients that were cut off for being slow.")
MEMORY = Gauge("duramen_bus_memory_bytes", "Resident memory of the bus' server.")
STORE_UP = Gauge("duramen_store_up", "1 if a store's own health check answers.", ["place"])
STORE_SECONDS = Gauge("duramen_store_health_seconds", "How long that took.", ["place"])
ANSWER_SECONDS = 5.0
OK = 200


class Poll:
    """A poll of the bus and the stores.

    `stores` holds the health address of each place.
    """

    def __init__(self, bus: BusServer, stores: Mapping[str, str]) -> None:
        self._server, self._stores = bus, stores

    async def once(self) -> None:
        """Ask the bus and all stores; what does not answer is down."""
        async with reach.http_async(timeout=ANSWER_SECONDS) as http:
            try:
                await self._bus()
            except (BusUnavailable, KeyError):
                BUS_UP.set(0)
            for place, url in self._stores.items():
                await self._store(http, place, url)

    async def _bus(self) -> None:
        BUS_UP.set(not await self._server.trouble())
        varz = await self._server.ask("VARZ")
        SYNC.set(varz["jetstream"]["config"].get("sync_always") is True)
        SLOW.set(varz["slow_consumers"])
        MEMORY.set(varz["mem"])
        jsz = await self._server.ask("JSZ", accounts=True, streams=True, config=True)
        for account in jsz["account_details"]:
            for stream in account["stream_detail"]:
                self._stream(stream)

    def _stream(self, stream: dict[str, Any]) -> None:
        name, state = stream["name"], stream["state"]
        MESSAGES.labels(name).set(state["messages"])
        BYTES.labels(name).set(state["bytes"])
        LAST.labels(name).set(state["last_seq"])
        MAX_BYTES.labels(name).set(stream["config"]["max_bytes"])

    async def _store(self, http: httpx.AsyncClient, place: str, url: str) -> None:
        begun = time.monotonic()
        STORE_UP.labels(place).set(await is_up(http, url))
        STORE_SECONDS.labels(place).set(time.monotonic() - begun)


async def is_up(http: httpx.AsyncClient, url: str) -> bool:
    """Return whether `url` answers 200."""
    try:
        return (await http.get(url)).status_code == OK
    except httpx.HTTPError:
        return False
