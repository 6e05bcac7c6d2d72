"""What every part of ingest works with."""

from dataclasses import dataclass, field
from pathlib import Path

from services.ingest.inbox.inbox import Inbox
from shared.bus.client import Bus
from shared.ledger.jobs import Table
from shared.protocol.events import Event, EventData
from shared.protocol.message import ObjectRef
from shared.store.s3 import Store


@dataclass
class Ingest:
    """The bus and the fold of its queue, the store, and the inbox.

    `cache` is a folder for what is fetched more than once; without one, nothing is kept.
    """

    bus: Bus
    store: Store
    inbox: Inbox
    table: Table = field(default_factory=Table)
    cache: Path | None = None

    async def tell(
        self, lineage: str, data: EventData, ref: ObjectRef | None = None, job: str | None = None
    ) -> None:
        """Send an event of a lineage. Raises BusUnavailable."""
        await self.bus.event(Event.of("ingest", data, ref=ref, lineage=lineage, job=job))
