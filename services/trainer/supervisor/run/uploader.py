"""Sends the newest checkpoint and the snapshots to the store while the worker keeps training."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import Histogram

from services.trainer.protocol import SnapshotTaken
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


@dataclass(frozen=True)
class SnapshotSent:
    """A snapshot that is in the store."""

    event: SnapshotTaken
    ref: ObjectRef


@dataclass
class Uploader:
    """The uploads of one run; training waits for none of them.

    `first`: the checkpoint from which, by the ledger, the segment resumed, if only this disk has it
    yet. `is_stuck`: the last try did not succeed.
    """

    local: Local
    line: Line
    segment: Segment
    folder: SegmentFolder
    outage: Outage
    first: Path | None = None
    is_stuck: bool = False
    _newest: Path | None = None
    _snapshots: list[SnapshotTaken] = field(default_factory=list)

    def checkpoint(self, path: Path) -> None:
        """Queue this checkpoint; an older one that was not sent yet is skipped."""
        self._newest = path

    def snapshot(self, event: SnapshotTaken) -> None:
        """Queue the snapshot file that this event names."""
        self._snapshots.append(event)

    async def send(self) -> AsyncIterator[CheckpointRef | SnapshotSent]:
        """Send until nothing is left; yield each item once it is in the store."""
        while self.first is not None or self._newest is not None or self._snapshots:
            for send in (self._send_first, self._send_newest, self._send_snapshot):
                try:
                    sent = await send()
                except (StoreUnavailable, ObjectDamaged, FileNotFoundError) as error:
                    self.is_stuck = True  # or the file was pruned, because a newer one exists
                    if isinstance(error, StoreUnavailable):
                        self.outage.failed(error)
                    log.get().warning("not_uploaded", segment=self.segment.id, error=str(error))
                    await asyncio.sleep(RETRY_SECONDS)
                    break
                if sent is not None:
                    yield sent
            else:
                self.is_stuck = False
                self.outage.over()

    async def _send_first(self) -> CheckpointRef | None:
        ref = await self._send_checkpoint(self.first) if self.first is not None else None
        self.first = None
        return ref

    async def _send_newest(self) -> CheckpointRef | None:
        if (newest := self._newest) is None:
            return None
        ref = await self._send_checkpoint(newest)
        if self._newest == newest:  # else a newer one was queued meanwhile
            self._newest = None
        return ref

    async def _send_snapshot(self) -> SnapshotSent | None:
        if not self._snapshots:
            return None
        event, store = self._snapshots[0], self.local.store
        key = layout.snapshot_file(self.line.lineage, self.segment.id, event.path.name)
        ref = await asyncio.to_thread(work_bucket.put_object, store, key, event.path)
        del self._snapshots[0]
        return SnapshotSent(event, ref)

    async def _send_checkpoint(self, path: Path) -> CheckpointRef | None:
        started = time.monotonic()
        try:
            ref = await asyncio.to_thread(self._put_checkpoint, path)
        except CannotTrain as error:  # damaged on this disk: the one before still stands
            log.get().error("checkpoint_damaged", path=path.name, error=str(error))
            return None
        UPLOAD_SECONDS.observe(time.monotonic() - started)
        return ref

    def _put_checkpoint(self, path: Path) -> CheckpointRef:
        store, lineage = self.local.store, self.line.lineage
        # Log and metrics first: whoever resumes from a checkpoint must find the steps behind it.
        work_bucket.put_progress(store, lineage, self.segment.id, self.folder)
        ref = work_bucket.put_checkpoint(store, lineage, path)
        retention.prune_uploads(store, self.line, self.segment)
        return ref
