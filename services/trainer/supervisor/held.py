"""The segment that this trainer holds, at most one, and all that hangs on it."""

from dataclasses import dataclass
from pathlib import Path

from services.trainer.supervisor.own_lease import OwnLease
from services.trainer.supervisor.run.worker_run import Ended, WorkerRun
from shared.ledger.lineage import Segment


@dataclass
class HeldSegment:
    """Changed by its methods alone, so that the lease always names the fence of what is held.

    `ended`: what the end of its worker still asks for; `is_blocked`: that was tried, and needs a
    store that is away. `not_uploaded`: the checkpoint that the segment goes on from, if only this
    disk has it.
    """

    lease: OwnLease
    segment: Segment | None = None
    run: WorkerRun | None = None
    ended: Ended | None = None
    is_blocked: bool = False
    not_uploaded: Path | None = None

    @property
    def open(self) -> Segment:
        """The segment, where the caller knows that one is held."""
        assert self.segment is not None
        return self.segment

    @property
    def is_ending(self) -> bool:
        """Whether what the end of a worker asks for is under way."""
        return self.ended is not None and not self.is_blocked

    def take(self, segment: Segment, not_uploaded: Path | None = None) -> None:
        """Hold a segment that was claimed, or claimed anew under another fence."""
        self.release()
        self.segment, self.not_uploaded = segment, not_uploaded
        self.lease.fence = segment.fence

    def release(self) -> None:
        """Hold nothing any more."""
        self.segment, self.lease.fence = None, None
        self.ended, self.is_blocked, self.not_uploaded = None, False, None

    def starts(self, run: WorkerRun) -> None:
        """Note that this run trains it from now on."""
        self.run = run

    def leaves(self, ended: Ended | None) -> None:
        """Note that its run is over, and how its worker ended; None if there was none."""
        self.run, self.ended = None, ended

    def blocks(self) -> None:
        """Note that what the end of its worker asks for waits for the store."""
        self.is_blocked = True

    def uploaded(self) -> None:
        """Note that the store has what it goes on from."""
        self.not_uploaded = None
