"""The segment that this trainer holds, at most one, and all that belongs to it."""

from dataclasses import dataclass
from pathlib import Path

from services.trainer.supervisor.own_lease import OwnLease
from services.trainer.supervisor.run.worker_run import Ended, WorkerRun
from shared.ledger.lineage import Segment


@dataclass
class HeldSegment:
    """The held segment, if any, with its run.

    It is changed by its methods alone, so that the lease always names the fence of what is held.
    `ended`: the end of its worker, while something must still be done about it; `is_blocked`: that
    was tried, but needs a store that is away. `not_uploaded`: the checkpoint that the segment
    resumes from, if only this disk has it. `had_stepped`: its last run had made a step.
    """

    lease: OwnLease
    segment: Segment | None = None
    run: WorkerRun | None = None
    ended: Ended | None = None
    is_blocked: bool = False
    not_uploaded: Path | None = None
    had_stepped: bool = False

    @property
    def open(self) -> Segment:
        """The held segment; the caller knows that there is one."""
        assert self.segment is not None
        return self.segment

    @property
    def is_ending(self) -> bool:
        """True while something is being done about the end of a worker."""
        return self.ended is not None and not self.is_blocked

    def take(self, segment: Segment, not_uploaded: Path | None = None) -> None:
        """Hold a segment that was claimed, or claimed again under another fence."""
        self.release()
        self.segment, self.not_uploaded = segment, not_uploaded
        self.lease.fence = segment.fence

    def release(self) -> None:
        """Hold no segment any longer."""
        self.segment, self.lease.fence = None, None
        self.ended, self.is_blocked, self.not_uploaded = None, False, None
        self.had_stepped = False

    def starts(self, run: WorkerRun) -> None:
        """Note that this run trains the segment from now on."""
        self.run = run

    def leaves(self, ended: Ended | None) -> None:
        """Note that the run is over, and how its worker ended (None: there was no end)."""
        at = self.run.state.progress if self.run is not None else None
        self.had_stepped = at is not None and at.global_step > self.open.record.global_step
        self.run, self.ended = None, ended

    def blocks(self) -> None:
        """Note that what must be done about the worker's end waits for the store."""
        self.is_blocked = True

    def uploaded(self) -> None:
        """Note that the store now has the checkpoint that the segment resumes from."""
        self.not_uploaded = None
