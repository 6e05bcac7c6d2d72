"""What a worker saved, sent to the store while it trains on: newest checkpoint, and snapshots."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import Histogram

from services.trainer.supervisor import retention, work_bucket
from services.trainer.supervisor.local_files import Local, SegmentFolder
from services.trainer.supervisor.store_outage import Outage
from shared import log
from shared.errors import CannotTrain, ObjectDamaged, StoreUnavailable
from shared.ledger.lineage import Line, Segment
from shared.protocol.message import ObjectRef
from shared.protocol.records import CheckpointRef
from shared.store import layout

UPLOAD_SECONDS = Histogram("duramen_checkpoint_upload_seconds", "Upload and read-back.")
RETRY_SECONDS = 1.0


@dataclass
class Sending:
    """Training waits for none of it. `stored` and `told` are called with what is in the store.
    `named`: the checkpoint that the ledger says is gone on from, if only this disk has it yet.
    """

    local: Local
    line: Line
    segment: Segment
    folder: SegmentFolder
    outage: Outage
    stored: Callable[[CheckpointRef], None]
    told: Callable[[dict[str, Any], ObjectRef], Awaitable[None]]
    named: Path | None = None
    _newest: Path | None = None
    _snapshots: list[dict[str, Any]] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None
    _stuck: bool = False  # the last try did not succeed

    def checkpoint(self, path: Path) -> None:
        """Send this one; those that were not sent before it are skipped."""
        self._newest = path
        self._go_on()

    def snapshot(self, event: dict[str, Any]) -> None:
        """Send the file that a `snapshot` event names."""
        self._snapshots.append(event)
        self._go_on()

    async def finish(self) -> None:
        """Wait until all is sent, but not for a store that is away: whoever closes or pauses the
        segment sees to the rest."""
        while self._task is not None and not self._task.done() and not self._stuck:
            await asyncio.wait([self._task], timeout=0.1)
        if self._task is not None and self._task.done():
            self._task.result()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _go_on(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self.named is not None or self._newest is not None or self._snapshots:
            try:
                if self.named is not None:
                    await self._send_checkpoint(self.named)
                    self.named = None
                if self._newest is not None:
                    await self._send_checkpoint(self._newest)
                if self._snapshots:
                    await self._send_snapshot(self._snapshots[0])
                    del self._snapshots[0]
            except (StoreUnavailable, ObjectDamaged, FileNotFoundError) as error:
                self._stuck = True  # or it was pruned meanwhile, since a newer one is there
                if isinstance(error, StoreUnavailable):
                    self.outage.failed(error)
                log.get().warning("not_uploaded", segment=self.segment.id, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._stuck = False
                self.outage.over()

    async def _send_checkpoint(self, path: Path) -> None:
        started = time.monotonic()
        try:
            ref = await asyncio.to_thread(self._put_checkpoint, path)
        except CannotTrain as error:  # damaged on this disk: the one before still stands
            log.get().error("checkpoint_damaged", path=path.name, error=str(error))
        else:
            UPLOAD_SECONDS.observe(time.monotonic() - started)
            self.stored(ref)
        if self._newest == path:
            self._newest = None

    def _put_checkpoint(self, path: Path) -> CheckpointRef:
        store, lineage = self.local.store, self.line.lineage
        # The steps before it first: whoever goes on from a checkpoint finds what led to it.
        work_bucket.put_progress(store, lineage, self.segment.id, self.folder)
        ref = work_bucket.put_checkpoint(store, lineage, path)
        retention.prune(store, self.line, self.segment)
        return ref

    async def _send_snapshot(self, event: dict[str, Any]) -> None:
        path = Path(event["path"])
        key = layout.snapshot_file(self.line.lineage, self.segment.id, path.name)
        await self.told(
            event, await asyncio.to_thread(work_bucket.put_object, self.local.store, key, path)
        )
