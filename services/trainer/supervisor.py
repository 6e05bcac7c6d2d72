"""The trainer's supervisor: looks for work, owns at most one segment, and obeys.

    look ── open segment of a dead owner? ── take it over
      │                                          │
      └─ desired `running`: claim the next job ──┤
                                                 ▼
    train until: done · failed · died · paused · stopped · skipped · preempted ── close the segment

A paused segment stays open with its checkpoint stored and no worker: what resumes is what a
restart resumes, so exact resume is the only way on.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from services.trainer import claim, lease, upload
from services.trainer.claim import Owner
from services.trainer.local import Local
from services.trainer.training import End, Training, earlier_files
from shared import log
from shared.bus import Bus
from shared.control import Control, observed
from shared.errors import (
    BusUnavailable,
    Conflict,
    ObjectDamaged,
    ObjectMissing,
    StoreUnavailable,
)
from shared.jobs import Job, Table
from shared.ledger import OWNER_DEATHS_ALLOWED, Line, Segment, moves_head
from shared.messages import (
    LEVEL_RANK,
    LEVELS,
    Event,
    Failure,
    Head,
    LineClose,
    ObjectRef,
    Observed,
    Once,
    Outcome,
)
from shared.service import instance
from shared.settings import TrainerSettings
from shared.store import PRECIOUS

QUEUE = Gauge("duramen_queue_jobs", "Queued jobs, by level.", ["level"])
VOID = Gauge("duramen_bus_void_records", "Messages on JOBS and CTL that do not count.")
ENDS = Counter("duramen_train_segments_total", "Segments closed, by outcome.", ["outcome"])
DEATHS = Counter("duramen_train_worker_deaths_total", "Workers that died without a word.")
REACTION = Histogram("duramen_control_reaction_seconds", "From a command seen to its effect.")

KEPT_OUTCOMES = {"done", "preempted", "stopped"}
DISK_RESERVE_BYTES = 1 << 30
GOODBYE_SECONDS = 25.0  # less than a container's stop_grace_period


@dataclass
class Wish:
    """Why a running worker is asked to end, and the one-time command behind it, if any."""

    why: str  # pause, stop, skip, preempt, lost
    once: tuple[int, Once] | None = None


@dataclass
class Supervisor:
    """One trainer. `once` is one look for work; training is inside it."""

    settings: TrainerSettings
    bus: Bus
    local: Local
    dtype: str
    lease: lease.Held
    table: Table = field(default_factory=Table)
    control: Control = field(default_factory=lambda: Control("trainer"))
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    held: Segment | None = None
    training: Training | None = None
    waiting: dict[str, str] = field(default_factory=dict)  # lineage -> why it cannot train
    once_through: int = -1
    shown: Observed | None = None

    def __post_init__(self) -> None:
        self.by = instance("trainer")
        self.watch = lease.Watch(self.bus, self.settings.lease_seconds)
        self._changed = asyncio.Event()
        self._log = log.get()
        self._voids = 0

    @property
    def owner(self) -> Owner:
        return Owner(self.by, self.lease.name, self.dtype, self.settings.micro_tokens)

    # ---- one look --------------------------------------------------------------------------------

    async def once(self) -> None:
        """Look, obey, train. Returns when there is nothing more to do now."""
        while await self.step():
            pass
        await self.show()

    async def step(self) -> bool:
        """One decision; True if another may follow at once."""
        await self.refresh()
        await claim.mend(self.bus, self.table, self.by)
        if self.held is not None and not self.is_mine(self.held):
            self.held, self.lease.fence = None, None
        if self.held is None:
            await self.take_over_lost()
        await self.answer_idle_commands()
        state = self.control.state
        if self.held is not None:
            if state == "stopped":
                await self.close_stopped()
            elif state == "running":
                await self.train()
            return state != "paused"
        if state != "running":
            return False
        job = await self.next_job()
        if job is None:
            return False
        return await self.open(job)

    def is_mine(self, segment: Segment) -> bool:
        line = self.table.lines[segment.job.lineage]
        return line.open_segment is not None and line.open_segment.fence == segment.fence

    async def refresh(self) -> None:
        await self.table.update(self.bus)
        await self.control.update(self.bus)
        if self.once_through < 0:
            before = await observed(self.bus, "trainer")
            self.once_through = before.once_through if before else 0
        for level in LEVELS:
            queued = [j for j in self.table.queue() if j.record.level == level]
            QUEUE.labels(level).set(len(queued))
        await self.alarm_voids()

    async def alarm_voids(self) -> None:
        voids = [*self.table.voids, *self.control.voids]
        VOID.set(len(voids))
        for void in voids[self._voids :]:
            self._log.error("void_record", sequence=void.sequence, why=void.why)
            data = {"what": "void_record", "sequence": void.sequence, "subject": void.subject}
            await self.bus.event(Event(service="trainer", kind="alarm", data=data))
        self._voids = len(voids)

    # ---- finding work ----------------------------------------------------------------------------

    async def next_job(self) -> Job | None:
        """The first queued job whose lineage can train now; says of the others why not."""
        self.waiting.clear()
        free = self.local.free_bytes()
        for job in self.table.queue():
            lineage = job.id.lineage
            if lineage in self.waiting:
                continue
            why = await self.why_not(lineage, free)
            if why is None:
                return job
            self.waiting[lineage] = why
        return None

    async def why_not(self, lineage: str, free_bytes: int) -> str | None:
        """Why a lineage cannot train now, with the next command; None if it can."""
        line = self.table.lines.get(lineage)
        if line is None or line.settings is None:
            return "it has no base yet: duramen base add DIR"
        if line.open_segment is not None:
            record = line.open_segment.record
            silent = await self.watch.silent_seconds(record.lease, line.open_segment.fence)
            return f"{record.owner} trains it (silent for {silent:.0f} s)"
        if free_bytes < DISK_RESERVE_BYTES:
            return (
                f"the disk has {free_bytes >> 20} MiB left, {DISK_RESERVE_BYTES >> 20} are needed"
            )
        store = self.local.store
        if not await asyncio.to_thread(self.local.has_head, line):
            return "the checkpoint of its head is in no store: duramen check"
        root = line.settings.base_root
        has_base = await asyncio.to_thread(store.oldest, PRECIOUS, f"bases/{root}/SHA256SUMS")
        if has_base is None:
            return f"its base {root[:12]} is not in the store: duramen base add DIR"
        if not line.versions:
            catalog = await asyncio.to_thread(
                lambda: next(iter(store.keys(PRECIOUS, f"catalog/{lineage}/")), None)
            )
            if catalog is not None:
                return "its ledger is empty but versions are in the store: the bus was lost"
        return None

    async def open(self, job: Job) -> bool:
        """Claim a job; False if it was not to be had after all."""
        try:
            self.held = await claim.open_segment(self.bus, self.table, job, self.owner)
        except Conflict:
            return True
        return await self.own(job)

    async def own(self, job: Job) -> bool:
        """After the ledger's open record: the lease names the fence, the job's record follows."""
        assert self.held is not None
        self.lease.fence = self.held.fence
        await self.lease.renew()
        while job.record.state in ("queued", "running"):
            try:
                changes: dict[str, Any] = {"segment": self.held.id, "fence": self.held.fence}
                await self.table.write(self.bus, job, "run", self.by, **changes, failure=None)
                data = {"segment": self.held.id, "fence": self.held.fence}
                await self.tell("opened", data)
                return True
            except Conflict:  # moved or removed meanwhile
                await self.table.update(self.bus)
                job = self.table.jobs[job.id]
        await self.close("void")
        return True

    async def take_over_lost(self) -> None:
        """Reclaim an open segment whose owner is dead: mine from before, or a silent one's."""
        for line in self.table.lines.values():
            segment = line.open_segment
            if segment is None:
                continue
            record = segment.record
            if record.lease == self.lease.name or await self.watch.is_dead(
                record.lease, segment.fence
            ):
                await self.reopen(segment, died=self.control.state == "running")
                return

    async def reopen(self, segment: Segment, *, died: bool) -> None:
        """A new fence on an open segment, from its newest valid checkpoint."""
        line = self.table.lines[segment.job.lineage]
        folder = self.local.segment(line.lineage, segment.id).make()
        found = await asyncio.to_thread(upload.newest, self.local.store, segment, folder)
        first = segment.opens[0][1]
        start = first
        if found is not None:
            start = first.model_copy(
                update={
                    "checkpoint": found.ref,
                    "position": found.ref.position,
                    "global_step": found.ref.global_step,
                }
            )
        try:
            self.held = await claim.reopen_segment(
                self.bus, self.table, segment, self.owner, start, died=died
            )
        except Conflict:
            self.held = None
            return
        self._log.info(
            "segment_reclaimed",
            segment=segment.id,
            fence=self.held.fence,
            global_step=start.global_step,
            deaths=self.held.record.deaths,
        )
        await self.own(self.table.jobs[segment.job])

    # ---- training --------------------------------------------------------------------------------

    async def train(self) -> None:
        """Train the held segment until there is a reason to end, then do what the reason asks."""
        assert self.held is not None
        segment, line = self.held, self.table.lines[self.held.job.lineage]
        deaths = segment.record.deaths
        if deaths >= OWNER_DEATHS_ALLOWED:
            why = f"Its owner died {deaths} times without a new checkpoint."
            failure = Failure(kind="deaths", message=why, next_step=retry(segment))
            await self.close("failed", failure=failure)
            return
        self.training = Training(
            self.settings,
            self.bus,
            self.local,
            line,
            self.table.jobs[segment.job],
            segment,
            self._changed.set,
            self.name_plan,
        )
        wish: Wish | None = None
        try:
            end, wish = await self.train_watched(self.training)
        except (ObjectMissing, ObjectDamaged) as error:
            failure = Failure(kind="base", message=str(error), next_step="duramen check")
            end = End("failed", failure)
        finally:
            training, self.training = self.training, None
        await self.after(end, wish, training)

    async def train_watched(self, training: Training) -> tuple[End, Wish | None]:
        """Run the worker and the watch beside it."""
        run = asyncio.create_task(training.run())
        wish: Wish | None = None
        try:
            while not run.done():
                await self.show()
                changed = asyncio.create_task(self._changed.wait())
                woken = asyncio.create_task(self.wake.wait())
                await asyncio.wait(
                    [run, changed, woken], timeout=1.0, return_when=asyncio.FIRST_COMPLETED
                )
                changed.cancel()
                woken.cancel()
                self._changed.clear()
                self.wake.clear()
                if wish is None and not run.done():
                    wish = await self.find_wish(training)
            return run.result(), wish
        finally:
            if not run.done():  # this process ends: what was trained is saved on this disk
                await training.send("finish")
                await asyncio.wait([run], timeout=GOODBYE_SECONDS)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)

    async def find_wish(self, training: Training) -> Wish | None:
        """A reason to end the worker at the end of its step, told to it; None to go on."""
        try:
            await self.refresh()
        except BusUnavailable as error:
            self._log.warning("bus_away", error=str(error))
            return None
        wish = self.wish(training.segment)
        if wish is None:
            await self.answer_live_commands(training)
            return None
        if wish.why == "lost":
            assert training.worker is not None
            await training.worker.kill()
        else:
            await training.send("finish")
        return wish

    def wish(self, segment: Segment) -> Wish | None:
        if not self.is_mine(segment):
            return Wish("lost")
        for at, once in self.control.pending(self.once_through):
            if once.command == "skip" and once.segment == segment.id:
                return Wish("skip", (at, once))
        if self.control.state != "running":
            return Wish("pause" if self.control.state == "paused" else "stop")
        mine = LEVEL_RANK[self.table.jobs[segment.job].record.level]
        for job in self.table.queue():
            if LEVEL_RANK[job.record.level] < mine and self.may_preempt(job, segment):
                return Wish("preempt")
        return None

    def may_preempt(self, job: Job, segment: Segment) -> bool:
        line = self.table.lines.get(job.id.lineage)
        if line is None or line.settings is None or job.id.lineage in self.waiting:
            return False
        return line.open_segment is None or line.open_segment.id == segment.id

    async def after(self, end: End, wish: Wish | None, training: Training) -> None:
        """What the end of a worker means for the segment."""
        assert self.held is not None
        self._log.info("worker_ended", outcome=end.outcome, wish=wish.why if wish else None)
        if wish is not None and wish.why == "lost":
            self.held = None
            self.lease.fence = None
            return
        match end.outcome:
            case "done":
                await self.close("done")
            case "failed":
                await self.close("failed", failure=end.failure, suspect=end.suspect)
            case "died":
                DEATHS.inc()
                await self.reopen(self.held, died=True)
            case "interrupted" if wish is not None:
                await self.after_wish(wish, training)
            case _:
                await self.reopen(self.held, died=False)

    async def after_wish(self, wish: Wish, training: Training) -> None:
        match wish.why:
            case "pause":  # stays open; a new fence starts from what was just stored
                assert self.held is not None
                await self.reopen(self.held, died=False)
            case "stop":
                await self.close_stopped()
            case "preempt":
                await self.close("preempted")
            case "skip":
                assert wish.once is not None
                await self.close_skipped(*wish.once)

    async def name_plan(self, plan: ObjectRef) -> None:
        """The job's record names the plan before the first step is made."""
        assert self.held is not None
        job = self.table.jobs[self.held.job]
        job = await self.table.write(self.bus, job, "run", self.by, plan=plan)
        if self.training is not None:
            self.training.job = job

    # ---- closing ---------------------------------------------------------------------------------

    async def close_stopped(self) -> None:
        assert self.held is not None
        desired = self.control.desired
        discard = desired is not None and desired.discard == self.held.id
        await self.close("void" if discard else "stopped")

    async def close_skipped(self, at: int, once: Once) -> None:
        await self.close("skipped", cause=once.nonce, keep=once.keep)
        await self.answer(at, once, "done", "kept" if once.keep else "dropped")

    async def close(
        self,
        outcome: Outcome,
        *,
        failure: Failure | None = None,
        suspect: bool = False,
        cause: str | None = None,
        keep: bool = False,
    ) -> None:
        """Close the held segment: the commit point. The checkpoint is in the store, read back."""
        assert self.held is not None
        segment, line = self.held, self.table.lines[self.held.job.lineage]
        assert line.head is not None
        first = segment.opens[0][1]
        keeps = outcome in KEPT_OUTCOMES or keep or (outcome == "failed" and not suspect)
        folder = self.local.segment(line.lineage, segment.id).make()
        found = await self.insist(
            asyncio.to_thread, upload.newest, self.local.store, segment, folder
        )
        head, to_step, to_position = line.head, first.global_step, first.position
        if found is not None and keeps and moves_head(line, found.ref):
            if found.local is not None:
                await self.insist(
                    asyncio.to_thread,
                    upload.put_checkpoint,
                    self.local.store,
                    line.lineage,
                    found.local,
                )
            to_step, to_position = found.ref.global_step, found.ref.position
            head = Head(base_root=line.head.base_root, global_step=to_step, checkpoint=found.ref)
        job = self.table.jobs[segment.job]
        earlier = await self.insist(asyncio.to_thread, earlier_files, self.local, line, job)
        result = await self.insist(
            asyncio.to_thread, upload.put_result, self.local.store, segment, folder, earlier
        )
        numbered = outcome == "done" or (outcome == "skipped" and head != line.head)
        record = LineClose(
            by=self.by,
            prev=line.sequence,
            lineage=line.lineage,
            segment=segment.id,
            fence=segment.fence,
            job=segment.job.path,
            outcome=outcome,
            from_step=first.global_step,
            to_step=to_step,
            from_position=first.position,
            to_position=to_position,
            head=head,
            version=line.next_version if numbered and head.checkpoint else None,
            plan=job.record.plan,
            result=result,
            cause=cause,
            failure=failure,
        )
        try:
            await line.append(self.bus, "close", record)
        except Conflict:  # taken over, or voided by a forced rollback: not ours any more
            self._log.error("close_refused", segment=segment.id, fence=segment.fence)
        self.held, self.lease.fence = None, None
        await self.table.update(self.bus)
        await claim.mend(self.bus, self.table, self.by)
        ENDS.labels(outcome).inc()
        data = {"segment": segment.id, "fence": segment.fence, "outcome": outcome}
        await self.tell("closed", {**data, "version": record.version}, line.lineage, segment)
        self._log.info("segment_closed", outcome=outcome, version=record.version, step=to_step)
        await asyncio.to_thread(self.clean, self.table.lines[line.lineage], segment)

    def clean(self, line: Line, segment: Segment) -> None:
        """`work` and this disk are cleaned by their owner, after the commit."""
        try:
            upload.prune(self.local.store, line, segment)
            upload.prune_heads(self.local.store, line)
        except (StoreUnavailable, ObjectMissing) as error:
            self._log.warning("not_cleaned", error=str(error))
        self.local.prune({segment.id})

    async def insist(self, call: Any, *args: Any) -> Any:
        """Repeat a store call until the store is back; the segment stays open meanwhile."""
        while True:
            try:
                return await call(*args)
            except StoreUnavailable as error:
                self._log.warning("store_away", error=str(error))
                self.waiting["*"] = str(error)
                await self.show()
                await asyncio.sleep(1.0)
            finally:
                self.waiting.pop("*", None)

    # ---- one-time commands -----------------------------------------------------------------------

    async def answer_live_commands(self, training: Training) -> None:
        """Snapshot and checkpoint are asked of the worker; what means another segment is void."""
        for at, once in self.control.pending(self.once_through):
            if once.segment != training.segment.id:
                await self.answer_missed(at, once)
                continue
            if once.command not in training.answered:
                await self.answer(at, once, "void", f"{once.command} is not for the trainer")
                continue
            training.answered[once.command].clear()
            await training.send(once.command)
            await self.wait_answered(training, once.command)
            await self.answer(at, once, "done", once.command)

    async def wait_answered(self, training: Training, command: str) -> None:
        """Wait for what was asked, or for the worker's end, whose last checkpoint is as good."""
        either = [training.answered[command], training.over]
        waits = [asyncio.create_task(event.wait()) for event in either]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def answer_idle_commands(self) -> None:
        """With no worker: skip closes the held segment, a paused one has its checkpoint."""
        for at, once in self.control.pending(self.once_through):
            if self.held is None or once.segment != self.held.id:
                await self.answer_missed(at, once)
            elif once.command == "skip":
                await self.close_skipped(at, once)
            elif self.control.state == "running":
                return  # its worker is about to start and is asked then
            elif once.command == "checkpoint":
                await self.answer(at, once, "done", "paused: its checkpoint is stored")
            else:
                await self.answer(at, once, "void", "paused: duramen resume")

    async def answer_missed(self, at: int, once: Once) -> None:
        """A command for a segment that is not held: done before a crash, or too late."""
        for line in self.table.lines.values():
            segment = line.segments.get(once.segment or "")
            if segment is None:
                continue
            if segment.close is None:
                return  # open, but not taken over yet: it waits for its owner
            if segment.close[1].cause == once.nonce:
                await self.answer(at, once, "done", "before a restart")
            else:
                outcome = segment.close[1].outcome
                await self.answer(at, once, "void", f"that segment is closed ({outcome})")
            return
        await self.answer(at, once, "void", "no such segment is open here")

    async def answer(self, at: int, once: Once, outcome: str, why: str) -> None:
        data = {
            "command": once.nonce,
            "sequence": at,
            "name": once.command,
            "outcome": outcome,
            "why": why,
            "segment": once.segment,
        }
        await self.bus.event(Event(service="trainer", kind="answered", data=data))
        self.once_through = at
        self._log.info("command_answered", **data)
        await self.show()

    # ---- what is shown ---------------------------------------------------------------------------

    def view(self) -> Observed:
        """What this trainer is, now."""
        segment, training = self.held, self.training
        state = self.control.state
        waiting = "; ".join(f"{k}: {v}" for k, v in self.waiting.items()) or None
        if training is not None or (segment is not None and state == "running"):
            shown = "running"
        elif state != "running" and not (segment and state == "stopped"):
            shown = state
        else:
            shown = "waiting" if waiting else "idle"
        checkpoint = segment.record.checkpoint if segment else None
        if training is not None and training.state.checkpoint is not None:
            checkpoint = training.state.checkpoint
        line = self.table.lines.get(segment.job.lineage) if segment else None
        progress = training.state.progress if training else None
        return Observed.model_validate(
            {
                "service": "trainer",
                "instance": self.by,
                "state": shown,
                # while a worker still runs, a newer generation is seen but not obeyed yet
                "generation": self.control.generation
                if shown == state or (training is None)
                else self.obeyed(),
                "once_through": max(self.once_through, 0),
                "waiting": waiting,
                "lineage": segment.job.lineage if segment else None,
                "job": segment.job.path if segment else None,
                "segment": segment.id if segment else None,
                "fence": segment.fence if segment else None,
                "ledger": line.sequence if line else 0,
                "progress": progress,
                "checkpoint": checkpoint,
                "read_back": checkpoint is not None,
            }
        )

    def obeyed(self) -> int:
        return self.shown.generation if self.shown else 0

    async def show(self) -> None:
        """Publish the view if it changed, at most once a second for mere progress."""
        view = self.view()
        before, self.shown = self.shown, view
        same = before is not None and before.model_dump(exclude=QUIET) == view.model_dump(
            exclude=QUIET
        )
        if same and before is not None and not self.is_due(before, view):
            self.shown = before
            return
        try:
            await self.bus.observe(view)
        except BusUnavailable as error:
            self._log.warning("not_observed", error=str(error))
            self.shown = before

    def is_due(self, before: Observed, view: Observed) -> bool:
        seconds = (view.at - before.at).total_seconds()
        return seconds >= 5 or (seconds >= 0.5 and before.progress != view.progress)

    async def tell(
        self, kind: str, data: dict[str, Any], lineage: str | None = None, of: Segment | None = None
    ) -> None:
        segment = of or self.held
        job = segment.job.path if segment else None
        lineage = lineage or (segment.job.lineage if segment else None)
        event = Event(service="trainer", kind=kind, lineage=lineage, job=job, data=data)
        try:
            await self.bus.event(event)
        except BusUnavailable as error:
            self._log.warning("event_not_sent", kind=kind, error=str(error))


QUIET = {"at", "progress"}


def retry(segment: Segment) -> str:
    return f"read its log, then duramen queue retry {segment.job}"


async def heartbeat(supervisor: Supervisor) -> None:
    """Show that the supervisor lives, also while a store makes it wait."""
    while True:
        await asyncio.sleep(5.0)
        if supervisor.shown is not None:
            await supervisor.show()


Loop = Coroutine[Any, Any, None]
