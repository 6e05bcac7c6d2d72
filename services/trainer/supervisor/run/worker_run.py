"""One worker's life on one segment: spec, events, uploads, until it ends for a reason.

The ledger decides about the segment; this code only trains it. What the worker saves is uploaded
while training continues; the last checkpoint is uploaded and read back before `run` returns, unless
the store is away.
"""

import asyncio
import signal
import time
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path
from typing import Literal

from services.trainer import device
from services.trainer.protocol import (
    CheckpointSaved,
    Command,
    Go,
    NothingNew,
    PlanReady,
    SnapshotSkipped,
    SnapshotTaken,
    Spec,
    StepDone,
    Stop,
    StopReason,
    TakeCheckpoint,
    TakeSnapshot,
    TrainingEnded,
    TrainingFailed,
    WorkerEvent,
    WorkerReady,
)
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor import work_bucket
from services.trainer.supervisor.local_files import Local, SegmentFolder
from services.trainer.supervisor.run import gauges
from services.trainer.supervisor.run.failures import KILLED, failure, nothing_new, told_failure
from services.trainer.supervisor.run.memory_watch import Watch, watch_memory
from services.trainer.supervisor.run.prepare import Preparation
from services.trainer.supervisor.run.uploader import RETRY_SECONDS, SnapshotSent, Uploader
from services.trainer.supervisor.run.worker_process import Worker
from services.trainer.supervisor.store_outage import Outage
from shared import log
from shared.bus.client import Bus
from shared.errors import BusUnavailable, ObjectDamaged, StoreUnavailable
from shared.files import write_synced
from shared.host import oom_kills
from shared.ledger.jobs import Job, Table
from shared.ledger.lineage import Line, Segment
from shared.protocol.control import Once
from shared.protocol.events import Event, EventData, JobPlanned, SnapshotStored
from shared.protocol.message import ObjectRef
from shared.protocol.observed import Progress
from shared.protocol.records import CheckpointRef, Failure

ASKABLE: dict[str, Command] = {"checkpoint": TakeCheckpoint(), "snapshot": TakeSnapshot()}
LATE_STEPS = 20  # the speed that is shown is that of these


@dataclass(frozen=True)
class StopRequest:
    """The reason why a running worker is asked to end, and the one-time command behind it, if any.

    `command`: its sequence on CTL, and the command itself. `since`: monotonic seconds.
    """

    reason: StopReason
    command: tuple[int, Once] | None = None
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Ended:
    """The way in which a worker ended, and the stop that it had been asked for, if any.

    `died`: without an event, for example by SIGKILL. `nothing_new`: every row is known, and
    `failure` says where they were trained. `final`: a smaller micro-batch would not help.
    """

    how: Literal["done", "nothing_new", "stopped", "failed", "died"]
    failure: Failure | None = None
    suspect: bool = False
    final: bool = True
    request: StopRequest | None = None


@dataclass
class AskedCommand:
    """A one-time command that was sent to the worker. `refused`: why it was not done."""

    sequence: int
    command: str
    is_answered: bool = False
    refused: str | None = None


@dataclass
class State:
    """The progress that a run shows while it continues."""

    progress: Progress | None = None
    checkpoint: CheckpointRef | None = None  # the newest that is in the store
    late_steps: list[StepDone] = field(default_factory=list)


@dataclass
class WorkerRun:
    """The run of one worker on a segment. `changed` is set whenever `state` is worth showing.

    `by`: who writes records. `not_uploaded`: the checkpoint that the segment resumes from, if only
    this disk has it.
    """

    settings: TrainerSettings
    bus: Bus
    table: Table
    by: str
    local: Local
    outage: Outage
    line: Line
    job: Job
    segment: Segment
    not_uploaded: InitVar[Path | None] = None
    state: State = field(default_factory=State)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    worker: Worker | None = None
    request: StopRequest | None = None
    asked: AskedCommand | None = None
    _uploads: asyncio.Task[None] | None = None
    _saved: CheckpointSaved | None = None
    _base_parameters: int = 0

    def __post_init__(self, not_uploaded: Path | None) -> None:
        self.folder: SegmentFolder = self.local.segment(self.line.lineage, self.segment.id).make()
        self.uploader = Uploader(
            local=self.local,
            line=self.line,
            segment=self.segment,
            folder=self.folder,
            outage=self.outage,
            first=not_uploaded,
        )
        self._log = log.get().bind(job=str(self.job.id), segment=self.segment.id)

    async def run(self) -> Ended:
        """Train until the worker ends; return how it ended.

        Before the worker starts, raises StoreUnavailable, ObjectMissing, ObjectDamaged,
        CheckpointUnusable, OSError.
        """
        spec, most = await asyncio.to_thread(self.prepare)
        if self.request is not None:
            return Ended("stopped", request=self.request)
        path, kills = self.folder.path / "spec.json", oom_kills()
        write_synced(path, spec.model_dump_json(indent=1).encode())
        worker = await Worker.spawn(path, self.folder.job_log, self.settings.threads)
        self.worker = worker
        watch = asyncio.create_task(watch_memory(worker.pid, most))
        gauges.RUNNING.set(1)
        gauges.LAST_STEP.set_to_current_time()  # from here on, the first step is waited for
        self._log.info("worker_started", pid=worker.pid, fence=self.segment.fence)
        try:
            ended = await self.attend(worker) or await self.silent_end(worker, kills, watch)
            await self.finish_uploads()
            return replace(ended, request=self.request)
        finally:
            watch.cancel()
            gauges.RUNNING.set(0)
            await worker.kill()
            if self._uploads is not None:
                self._uploads.cancel()

    async def stop(self, request: StopRequest) -> None:
        """Ask the worker to end after its step with a checkpoint, or at once before the first step.

        If the segment is lost, the worker is killed: nothing that it still does may be kept.
        """
        self.request = request
        if self.worker is not None and request.reason is StopReason.LOST:
            await self.worker.kill()
        elif self.worker is not None:
            await self.worker.send(Stop(reason=request.reason))

    async def ask(self, command: str, sequence: int) -> AskedCommand | None:
        """Pass a one-time command on, once; return it when it is answered, None before.

        If the worker has not started yet, it is asked at a later call.
        """
        if self.worker is None:
            return None
        if self.asked is None or self.asked.sequence != sequence:
            self.asked = AskedCommand(sequence, command)
            await self.worker.send(ASKABLE[command])
        return self.asked if self.asked.is_answered else None

    def prepare(self) -> tuple[Spec, int]:
        """Fetch what the worker needs; return its specification, and the most bytes it may hold.

        Blocking. Raises StoreUnavailable, ObjectMissing, ObjectDamaged, CheckpointUnusable.
        """
        parts = (self.settings, self.local, self.line, self.job, self.segment, self.folder)
        return (made := Preparation(*parts)).spec(), made.most_resident()

    # ---- events ----------------------------------------------------------------------------------

    async def attend(self, worker: Worker) -> Ended | None:
        """Act on the worker's events until it exits; return the end it reported, or None."""
        if self.request is not None:  # made while the worker was starting
            await worker.send(Stop(reason=self.request.reason))
        ended = None
        async for event in worker.events():
            ended = await self.take(event) or ended
        await worker.wait()
        return ended

    async def silent_end(self, worker: Worker, kills: int | None, watch: Watch) -> Ended:
        """Return how a worker ended that reported no end.

        `kills`: the kernel's out-of-memory kills in this memory group before the worker started.
        """
        status = await worker.wait()
        if status == 0 and self.request is not None:  # told to stop before its first step
            return Ended("stopped")
        self._log.warning("worker_died", status=status)
        if watch.done():
            return Ended("failed", failure("memory", watch.result(), self.job.id))
        if status == -signal.SIGKILL and (oom_kills() or 0) > (kills or 0):
            return Ended("failed", failure("memory", KILLED, self.job.id), final=False)
        return Ended("died")

    async def take(self, event: WorkerEvent) -> Ended | None:
        """Act on one event of the worker; return how it ends if the event says so, else None."""
        match event:
            case PlanReady():
                await self.take_plan(event)
            case WorkerReady():
                self.take_ready(event)
            case StepDone():
                self.take_step(event)
            case CheckpointSaved():
                self.take_checkpoint(event)
            case SnapshotTaken():
                gauges.note_snapshot(event)
                self.uploader.snapshot(event)
                self.upload()
            case SnapshotSkipped():
                gauges.note_decision(event.decision)
                if event.asked:
                    self.answer("snapshot", str(event.decision["why"]))
            case TrainingEnded():
                self.take_checkpoint(event.checkpoint)
                return Ended("done" if event.reason is None else "stopped")
            case NothingNew() | TrainingFailed():
                return self.ended_early(event)
        return None

    def ended_early(self, event: NothingNew | TrainingFailed) -> Ended:
        """Return how the job ended, with the reason."""
        if isinstance(event, NothingNew):
            return Ended("nothing_new", nothing_new(event, self.line.lineage))
        told = told_failure(event, self.job.id)
        return Ended("failed", told, event.suspect, event.final)

    def take_ready(self, event: WorkerReady) -> None:
        """Log how this model is trained here, and what is done differently than usual."""
        seconds = round(event.seconds, 1)
        self._log.info("worker_ready", seconds=seconds, attention=event.attention)
        for note in event.notes:
            self._log.warning("model_note", note=note)
        self._base_parameters = event.base_parameters

    async def take_plan(self, event: PlanReady) -> None:
        """Let the worker train once its plan is stored and named in the job's record."""
        gauges.note_plan(event)
        if self.job.record.plan is None:
            ref = await self.store_plan(event)
            if ref is None:
                return
            named = {"plan": ref, "tokens": event.tokens, "steps": event.steps}
            job = self.table.jobs[self.job.id]
            self.job = await self.table.write(self.bus, job, "run", self.by, **named)
            made = event.model_dump(include={*JobPlanned.model_fields})
            await self.tell(JobPlanned.model_validate(made), ref)
        start = self.segment.record
        self.state.progress = Progress(
            position=start.position, steps=event.steps, global_step=start.global_step
        )
        self.changed.set()
        assert self.worker is not None
        await self.worker.send(Go())

    async def store_plan(self, event: PlanReady) -> ObjectRef | None:
        """Store a plan, however long it takes; return None if a stop is requested meanwhile."""
        while self.request is None:
            try:
                ref = await asyncio.to_thread(
                    work_bucket.put_plan, self.local.store, event.path, event.sha256
                )
            except (StoreUnavailable, ObjectDamaged) as error:
                self.outage.failed(error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.outage.over()
                return ref
        return None

    def take_step(self, event: StepDone) -> None:
        """Show how far training has come, and how fast the latest steps were."""
        gauges.note_step(event)
        late = [*self.state.late_steps[1 - LATE_STEPS :], event]
        self.state.late_steps = late
        seconds = sum(step.seconds for step in late) or 1e-9
        speed = sum(step.tokens for step in late) / seconds
        self.measure_use(speed)
        self.state.progress = Progress(
            position=event.position,
            steps=event.steps,
            global_step=event.global_step,
            loss=None if event.loss is None else round(event.loss, 6),
            tokens_per_second=round(speed, 1),
            eta_seconds=round((event.steps - event.position) * seconds / len(late), 1),
        )
        self.changed.set()

    def measure_use(self, tokens_per_second: float) -> None:
        """Set the share of the measured matrix speed that training uses, if that was measured.

        Forward and backward through frozen weights take 4 operations per weight and token.
        """
        kept = device.file_in(self.settings.state_dir)
        if self._base_parameters:
            speed = device.measurement(kept).get(f"{self.segment.record.dtype}_flops")
            if isinstance(speed, int | float) and speed > 0:
                gauges.MFU.set(4 * self._base_parameters * tokens_per_second / speed)

    def take_checkpoint(self, event: CheckpointSaved) -> None:
        """Send a checkpoint to the store while training continues.

        An answer to a command, or the end, may name a checkpoint that was reported before.
        """
        if event != self._saved:
            gauges.CHECKPOINT_SECONDS.observe(event.write_seconds)
        self._saved = event
        self.uploader.checkpoint(event.path)
        self.upload()

    def answer(self, command: str, refused: str | None = None) -> None:
        """Note that this one-time command, if it was sent to the worker, is done or refused."""
        if self.asked is not None and self.asked.command == command:
            self.asked.is_answered, self.asked.refused = True, refused
        self.changed.set()

    # ---- uploads ---------------------------------------------------------------------------------

    def upload(self) -> None:
        """Start the task that uploads beside training, unless it runs already."""
        if self._uploads is None or self._uploads.done():
            self._uploads = asyncio.create_task(self.take_uploads())

    async def take_uploads(self) -> None:
        """Upload what is queued, and show and report what is in the store."""
        async for sent in self.uploader.send():
            match sent:
                case CheckpointRef():
                    self.state.checkpoint = sent
                    self.answer("checkpoint")
                case SnapshotSent():
                    await self.tell_snapshot(sent.event, sent.ref)
                    self.answer("snapshot")

    async def finish_uploads(self) -> None:
        """Wait until all is sent, but not for a store that is away.

        Closing or pausing the segment then takes care of the rest.
        """
        task = self._uploads
        while task is not None and not task.done() and not self.uploader.is_stuck:
            await asyncio.wait([task], timeout=0.1)
        if task is not None and task.done():
            task.result()

    async def tell_snapshot(self, event: SnapshotTaken, ref: ObjectRef) -> None:
        """Send an event on the bus that a snapshot is in the store."""
        stored = SnapshotStored.model_validate(
            event.model_dump(include={"global_step", "position", "summary", "decision"})
            | {"segment": self.segment.id, "fence": self.segment.fence}
        )
        await self.tell(stored, ref)

    async def tell(self, data: EventData, ref: ObjectRef | None = None) -> None:
        """Send an event of this job on the bus. What it says is also in the store."""
        job, lineage = self.job.id.path, self.line.lineage
        try:
            await self.bus.event(Event.of("trainer", data, lineage=lineage, job=job, ref=ref))
        except BusUnavailable as error:
            self._log.warning("event_not_sent", kind=data.kind, error=str(error))
