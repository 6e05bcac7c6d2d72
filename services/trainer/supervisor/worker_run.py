"""One worker's life on one segment: spec, events, uploads, until it ends for a reason.

The segment is the ledger's; this only trains it. What the worker saves is uploaded while it goes
on; the last checkpoint is uploaded and read back before `train` returns.
"""

import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from services.trainer import device
from services.trainer.protocol import Spec
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor import work_bucket
from services.trainer.supervisor.local_files import Local, SegmentFolder
from services.trainer.supervisor.prepare import Preparation
from services.trainer.supervisor.store_outage import Outage
from services.trainer.supervisor.uploader import RETRY_SECONDS, Sending
from services.trainer.supervisor.worker_process import Worker
from shared import log
from shared.bus.client import Bus
from shared.errors import (
    BusUnavailable,
    ObjectDamaged,
    StoreUnavailable,
)
from shared.files import write_synced
from shared.host import oom_kills
from shared.ledger.jobs import Job
from shared.ledger.lineage import Line, Segment
from shared.protocol.events import Event, SnapshotStored
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId
from shared.protocol.observed import Progress
from shared.protocol.records import CheckpointRef, Failure

LOSS = Gauge("duramen_train_loss", "Mean loss per trained token at the last step.")
GLOBAL_STEP = Gauge("duramen_train_global_step", "Optimizer updates of the lineage so far.")
LEARNING_RATE = Gauge("duramen_train_learning_rate", "Learning rate at the last step.")
GRADIENT = Gauge("duramen_train_gradient_norm", "Norm of the gradient before clipping.")
TOKENS = Counter("duramen_train_tokens_total", "Tokens through the model in training.")
TRAINED = Counter("duramen_train_trained_tokens_total", "Tokens that carried a loss.")
PLAN_SECONDS = Histogram(
    "duramen_train_plan_seconds",
    "Tokenising a dataset and deciding its batches, or computing its tokens again.",
    buckets=(0.1, 1, 10, 60, 300, 1800),
)
PLANNED = Counter("duramen_train_planned_tokens_total", "Tokens of one epoch of those plans.")
STEPS = Counter("duramen_train_steps_total", "Optimizer steps.")
STEP_SECONDS = Histogram("duramen_train_step_seconds", "Duration of an optimizer step.")
SNAPSHOT_SECONDS = Histogram("duramen_snapshot_seconds", "Duration of a snapshot.")
SNAPSHOTS = Counter("duramen_snapshots_total", "Decisions: full, small or skipped.", ["size"])
ALLOWED = Gauge("duramen_snapshot_allowed_seconds", "What snapshots of this job may have cost.")
SPENT = Gauge("duramen_snapshot_spent_seconds", "What they have cost before the last decision.")
HELDOUT_LOSS = Gauge("duramen_snapshot_loss", "Mean loss at the last snapshot.", ["split"])
EXACT = Gauge("duramen_snapshot_exact_match_ratio", "Exact matches at the last one.", ["split"])
SKIPPED = Counter("duramen_train_skipped_steps_total", "Steps without a finite gradient.")
CHECKPOINT_SECONDS = Histogram("duramen_checkpoint_write_seconds", "Training stands still for it.")
MFU = Gauge("duramen_train_mfu_ratio", "Share of the matrix speed that was measured here.")
LAST_STEP = Gauge("duramen_train_last_step_seconds", "Unix time of the last optimizer step.")
RUNNING = Gauge("duramen_train_running", "1 while a worker trains.")


@dataclass
class State:
    """What a run shows of itself while it goes on."""

    progress: Progress | None = None
    checkpoint: CheckpointRef | None = None
    plan: ObjectRef | None = None
    rates: list[tuple[int, float]] = field(default_factory=list)  # (tokens, seconds) of late steps


@dataclass(frozen=True)
class End:
    """How a worker ended. `died`: without a word, as by SIGKILL."""

    outcome: str  # done, interrupted, failed, died
    failure: Failure | None = None
    suspect: bool = False
    final: bool = True  # a smaller micro-batch would not help


@dataclass
class Training:
    """Runs a worker on a segment. `changed` is called whenever `state` is worth showing."""

    settings: TrainerSettings
    bus: Bus
    local: Local
    line: Line
    job: Job
    segment: Segment
    changed: Callable[[], None]
    on_plan: Callable[[ObjectRef, int, int], Any]
    state: State = field(default_factory=State)
    answered: dict[str, asyncio.Event] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # why a command was not done
    worker: Worker | None = None
    asked: int = 0  # the one-time command that the worker has heard, by sequence
    outage: Outage = field(default_factory=Outage)
    unstored: Path | None = None  # where it goes on from, if only this disk has it
    _leaving: asyncio.Event = field(default_factory=asyncio.Event)
    _steps: int = 0
    _parameters: int = 0

    def __post_init__(self) -> None:
        self.folder: SegmentFolder = self.local.segment(self.line.lineage, self.segment.id).make()
        self.answered = {"snapshot": asyncio.Event(), "checkpoint": asyncio.Event()}
        self.sending = Sending(
            self.local,
            self.line,
            self.segment,
            self.folder,
            self.outage,
            self.is_stored,
            self.tell_snapshot,
            self.unstored,
        )
        self._log = log.get().bind(job=str(self.job.id), segment=self.segment.id)

    async def run(self) -> End:
        """Train until the worker ends. Before its start raises StoreUnavailable, ObjectMissing,
        ObjectDamaged, CheckpointUnusable, OSError."""
        spec = await asyncio.to_thread(self.prepare)
        if self._leaving.is_set():
            return End("interrupted")
        write_synced(self.folder.path / "spec.json", spec.model_dump_json(indent=1).encode())
        kills = oom_kills()
        self.worker = await Worker.spawn(
            self.folder.path / "spec.json", self.folder.job_log, self.settings.threads
        )
        RUNNING.set(1)
        LAST_STEP.set_to_current_time()  # the start counts: the first step is awaited from here
        self._log.info("worker_started", pid=self.worker.pid, fence=self.segment.fence)
        end = End("died")
        try:
            if self._leaving.is_set():  # while it was spawned
                await self.worker.send("finish")
            async for event in self.worker.events():
                end = await self.take(event) or end
            status = await self.worker.wait()
            if end.outcome == "died" and status == 0:  # told to finish before its first step
                end = End("interrupted")
            elif end.outcome == "died":
                self._log.warning("worker_died", status=status)
                if status == -signal.SIGKILL and (oom_kills() or 0) > (kills or 0):
                    step = next_step("memory", self.job.id)
                    killed = Failure(kind="memory", message=KILLED, next_step=step)
                    end = End("failed", killed, final=False)
            await self.sending.finish()
            return end
        finally:
            RUNNING.set(0)
            await self.worker.kill()
            self.sending.cancel()

    async def ask(self, command: str, sequence: int) -> None:
        """Pass a one-time command on, once. A worker that is not there yet is asked later."""
        if self.worker is not None and self.asked != sequence:
            self.asked = sequence
            self.answered[command].clear()
            await self.worker.send(command)

    async def finish(self) -> None:
        """End at the end of the step with a checkpoint; before the first step, at once."""
        self._leaving.set()
        if self.worker is not None:
            await self.worker.send("finish")

    async def kill(self) -> None:
        """End now, as for an owner who lost the segment."""
        self._leaving.set()
        if self.worker is not None:
            await self.worker.kill()

    def prepare(self) -> Spec:
        """Blocking. Raises StoreUnavailable, ObjectMissing, ObjectDamaged, CheckpointUnusable."""
        parts = (self.settings, self.local, self.line, self.job, self.segment, self.folder)
        return Preparation(*parts).spec()

    # ---- events ----------------------------------------------------------------------------------

    async def take(self, event: dict[str, Any]) -> End | None:
        """One event of the worker; an End if it says that it ends."""
        match event.get("event"):
            case "plan":
                await self.take_plan(event)
            case "ready":
                self.take_ready(event)
            case "step":
                self.take_step(event)
            case "checkpoint":
                self.take_checkpoint(event)
            case "snapshot":
                self.take_snapshot(event)
            case "snapshot_skipped":
                self.take_skipped(event)
            case "end":
                self.take_checkpoint(event["checkpoint"])
                return End(event["outcome"])
            case "failed":
                message = str(event["message"])[:3000]
                if event.get("example"):
                    message += "\n" + str(event["example"])[:900]
                return End(
                    "failed",
                    Failure(
                        kind=event["kind"],
                        message=message,
                        next_step=next_step(event["kind"], self.job.id),
                    ),
                    bool(event.get("suspect")),
                    bool(event.get("final", True)),
                )
        return None

    def take_ready(self, event: dict[str, Any]) -> None:
        """Log how this model is trained here, and what is done otherwise than usual."""
        seconds, way = round(event["seconds"], 1), event["attention"]
        self._log.info("worker_ready", seconds=seconds, attention=way)
        for note in event["notes"]:
            self._log.warning("model_note", note=note)
        self._parameters = int(event["base_parameters"])

    def take_skipped(self, event: dict[str, Any]) -> None:
        note_decision(event["decision"])
        if event["asked"]:
            self.refused["snapshot"] = str(event["decision"]["why"])
            self.answered["snapshot"].set()
            self.changed()

    async def take_plan(self, event: dict[str, Any]) -> None:
        """A plan is stored and named by the job's record before the first step is made."""
        self._steps = int(event["steps"])
        PLAN_SECONDS.observe(event["seconds"])
        PLANNED.inc(event["tokens"] / event["epochs"])
        if self.job.record.plan is None:
            ref = await self.store_plan(Path(event["path"]), str(event["sha256"]))
            if ref is None:
                return
            await self.on_plan(ref, int(event["tokens"]), self._steps)
            self.state.plan = ref
        else:
            self.state.plan = self.job.record.plan
        start = self.segment.record
        self.state.progress = Progress(
            position=start.position, steps=self._steps, global_step=start.global_step
        )
        self.changed()
        assert self.worker is not None
        await self.worker.send("go")

    async def store_plan(self, path: Path, sha256: str) -> ObjectRef | None:
        """Nothing is trained before its plan is stored; None if told to leave meanwhile."""
        while not self._leaving.is_set():
            try:
                ref = await asyncio.to_thread(work_bucket.put_plan, self.local.store, path, sha256)
            except (StoreUnavailable, ObjectDamaged) as error:
                self.outage.failed(error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.outage.over()
                return ref
        return None

    def take_step(self, event: dict[str, Any]) -> None:
        if event["loss"] is not None:
            LOSS.set(event["loss"])
        GLOBAL_STEP.set(event["global_step"])
        LEARNING_RATE.set(event["learning_rate"])
        GRADIENT.set(event["gradient_norm"] or 0.0)
        TOKENS.inc(event["tokens"])
        TRAINED.inc(event["trained_tokens"])
        STEPS.inc()
        SKIPPED.inc(event["skipped"])
        LAST_STEP.set_to_current_time()
        STEP_SECONDS.observe(event["seconds"])
        self.state.rates = [*self.state.rates[-19:], (event["tokens"], event["seconds"])]
        tokens = sum(t for t, _ in self.state.rates)
        seconds = sum(s for _, s in self.state.rates) or 1e-9
        left = self._steps - event["position"]
        self.measure_use(tokens / seconds)
        self.state.progress = Progress(
            position=event["position"],
            steps=self._steps,
            global_step=event["global_step"],
            loss=None if event["loss"] is None else round(event["loss"], 6),
            tokens_per_second=round(tokens / seconds, 1),
            eta_seconds=round(left * seconds / len(self.state.rates), 1),
        )
        self.changed()

    def measure_use(self, tokens_per_second: float) -> None:
        """Forward and backward through frozen weights: 4 operations a weight and token."""
        kept = device.file_in(self.settings.state_dir)
        if self._parameters and kept.exists():
            speeds = json.loads(kept.read_bytes())
            speed = speeds.get(f"{self.segment.record.dtype}_flops")
            if speed:
                MFU.set(4 * self._parameters * tokens_per_second / speed)

    def take_checkpoint(self, event: dict[str, Any]) -> None:
        if "write_seconds" in event:
            CHECKPOINT_SECONDS.observe(event["write_seconds"])
        self.sending.checkpoint(Path(event["path"]))

    def is_stored(self, ref: CheckpointRef) -> None:
        self.state.checkpoint = ref
        self.answered["checkpoint"].set()
        self.changed()

    def take_snapshot(self, event: dict[str, Any]) -> None:
        SNAPSHOT_SECONDS.observe(event["seconds"])
        note_decision(event["decision"])
        for split, numbers in event["summary"].items():
            HELDOUT_LOSS.labels(split).set(numbers["loss"])
            if numbers.get("exact_match") is not None:
                EXACT.labels(split).set(numbers["exact_match"])
        self.sending.snapshot(event)

    async def tell_snapshot(self, event: dict[str, Any], ref: ObjectRef) -> None:
        stored = SnapshotStored(
            global_step=event["global_step"],
            position=event["position"],
            summary=event["summary"],
            decision=event["decision"],
            segment=self.segment.id,
            fence=self.segment.fence,
        )
        message = Event.of(
            "trainer", stored, lineage=self.line.lineage, job=self.job.id.path, ref=ref
        )
        try:
            await self.bus.event(message)
        except BusUnavailable as error:  # the object is found by listing, too
            self._log.warning("event_not_sent", kind="snapshot", error=str(error))
        self.answered["snapshot"].set()
        self.changed()


def note_decision(decision: dict[str, Any]) -> None:
    SNAPSHOTS.labels(decision["size"]).inc()
    ALLOWED.set(decision["allowed_seconds"])
    SPENT.set(decision["spent_seconds"])


KILLED = "The kernel killed the worker: the memory of this machine, or of its container, ran out."
NEXT_STEPS = {
    # A retry keeps the plan, and with it every setting: another setting is another job.
    "nan": "duramen submit FILE --again -l {lineage} --set learning_rate=…  (a lower one)",
    "mask": "duramen lineage new NAME --base BASE --chat-template FILE",
    "template": "duramen lineage new NAME --base BASE --chat-template FILE",
    "memory": "free memory, then duramen queue retry {job}; or duramen submit FILE --again "
    "-l {lineage} --set max_length=…  (a lower one)",
    "disk": "free space, then duramen queue retry {job}",
    "data": "drop a mended file into the inbox",
    "checkpoint": "duramen check",
    "base": "duramen base add DIR",
    "internal": "read the job's log, then duramen queue retry {job}",
}


def next_step(kind: str, job: JobId) -> str:
    """The command after a failure; empty if there is none."""
    return NEXT_STEPS.get(kind, "").format(job=job, lineage=job.lineage)
