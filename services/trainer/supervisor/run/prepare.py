"""Fetches what a worker needs to this disk and names it in the worker's specification."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.trainer import memory
from services.trainer.protocol import EvalDataset, SnapshotSettings, Spec, Start, TrainedDataset
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor import work_bucket
from services.trainer.supervisor.local_files import Local, SegmentFolder
from services.trainer.supervisor.run.memory_watch import most_resident
from shared import log
from shared.errors import MALFORMED, DuramenError, ObjectDamaged, ObjectMissing, UsageError
from shared.files import sha256_file
from shared.formats.adapter import AdapterShape
from shared.formats.plan import TrainingSettings
from shared.formats.result import ResultFile, SegmentResult
from shared.ledger.jobs import Job
from shared.ledger.lineage import Line, Segment
from shared.ledger.trained import trained_jobs
from shared.memory_estimate import Estimate, gib
from shared.protocol.message import ObjectRef
from shared.protocol.records import CheckpointRef, LineageSettings
from shared.store import layout

# Settings of a job that decide which rows are trained, and not how.
NOT_OF_THE_UPDATES = {"description", "allow_bad", "delta"}


class CheckpointUnusable(DuramenError):
    """The checkpoint that training would resume from is missing or damaged in every place."""

    exit_code = 8
    next_step = "duramen check, then duramen rollback VERSION"


@dataclass(frozen=True)
class Preparation:
    """Prepares one worker for one segment.

    Raises StoreUnavailable, ObjectMissing, ObjectDamaged, CheckpointUnusable.
    """

    settings: TrainerSettings
    local: Local
    line: Line
    job: Job
    segment: Segment
    folder: SegmentFolder

    def spec(self) -> Spec:
        """Fetch all that the worker needs to this disk; return its specification. Blocking."""
        settings, record, plan = self.fixed, self.segment.record, self.job.record.plan
        self.bring_progress()
        return Spec(
            lineage=self.line.lineage,
            segment=self.segment.id,
            fence=self.segment.fence,
            job=self.job.id.path,
            base_dir=self.local.base(settings.base_root),
            base_root=settings.base_root,
            chat_template=settings.chat_template,
            dataset=self.local.object("datasets", self.job.record.dataset, ".jsonl"),
            dataset_sha256=self.job.id.sha256,
            **({} if plan else self.for_a_new_plan()),
            plan=self.plan(plan) if plan else None,
            plan_out=self.folder.plan,
            plan_sha256=plan.sha256 if plan else None,
            lora=AdapterShape.model_validate(settings.lora.model_dump()),
            device=self.settings.device,
            memory_limit=self.settings.memory_limit,
            dtype=record.dtype,
            quantize=settings.quantize,
            gradient_checkpointing=self.recomputes(self.local.base(settings.base_root)),
            settings=self.training_settings(),
            clock=self.job.record.queued_at.isoformat(),
            checkpoint=self.checkpoint(record.checkpoint) if record.checkpoint else None,
            start=self.start(),
            micro_tokens=record.micro_tokens,
            checkpoint_dir=self.folder.checkpoints,
            checkpoint_seconds=self.settings.checkpoint_seconds,
            eval_fraction=self.settings.eval_fraction,
            snapshot=self.snapshots(),
            metrics=self.folder.metrics,
            lock_file=self.settings.state_dir / "worker.lock",
            proofs=self.settings.state_dir / "attention.json",
            threads=self.settings.threads,
        )

    @property
    def fixed(self) -> LineageSettings:
        """The lineage's settings, which no job changes."""
        assert self.line.settings is not None
        return self.line.settings

    def bring_progress(self) -> None:
        """Fetch earlier log and metrics, this segment's own first; files that exist are kept."""
        work_bucket.get_progress(self.local.store, self.line.lineage, self.segment.id, self.folder)
        self.carry_earlier()

    def start(self) -> Start:
        """Return where the segment's training starts or resumes."""
        return Start(
            position=self.segment.record.position,
            global_step=self.segment.record.global_step,
            job_steps_from=self.segment.first.position,
        )

    def snapshots(self) -> SnapshotSettings:
        """Return what snapshots may cost, and where they are written."""
        return SnapshotSettings(
            fraction=self.settings.snapshot_fraction,
            allowance_seconds=self.settings.snapshot_allowance_seconds,
            directory=self.folder.snapshots,
            baselines=self.settings.state_dir / "baselines",
        )

    def plan(self, ref: ObjectRef) -> Path:
        """Return the file of the job's plan; the segment that made it has it without the store."""
        made = self.folder.plan
        if made.exists() and sha256_file(made) == ref.sha256:
            return made
        return self.local.object("plans", ref, ".json")

    def checkpoint(self, ref: CheckpointRef) -> Path:
        """Return the folder of the checkpoint to resume from. Raises CheckpointUnusable."""
        try:
            return self.local.checkpoint(self.line, ref)
        except (ObjectMissing, ObjectDamaged) as error:
            raise CheckpointUnusable(
                f"Training cannot resume from step {ref.global_step} of {self.line.lineage}: "
                f"{error}"
            ) from error

    def recomputes(self, base: Path) -> bool:
        """Return whether to checkpoint gradients: the same results in less memory and more time.

        Writes to the job's log how much memory is needed and how much is free.
        """
        assert self.line.settings is not None
        record, wanted = self.segment.record, self.settings.gradient_checkpointing
        try:
            need = self.need(base)
        except UsageError:  # the worker reports in full what is wrong with the base
            return wanted == "on"
        have = memory.measured_memory(self.settings).free
        on = wanted == "on" or record.micro_tokens_asked is not None
        if wanted == "auto" and not on:
            on = need.total > have
        if on:
            need = self.need(base, recompute=True)
        self.note(f"memory: {need} is needed, by estimate; {gib(have)} is free")
        return on and wanted != "off"

    def most_resident(self) -> int:
        """Return how many bytes of this machine's memory the worker may hold; see memory_watch."""
        base, dataset = self.local.base(self.fixed.base_root), self.job.record.dataset
        try:
            need = self.need(base).total
        except UsageError:
            need = None
        return most_resident(need, self.local.object("datasets", dataset, ".jsonl"))

    def need(self, base: Path, *, recompute: bool = False) -> Estimate:
        """Return the memory that the segment is estimated to need.

        Raises UsageError if the base's files do not say.
        """
        line, record = self.line.settings, self.segment.record
        assert line is not None
        dtype, tokens = record.dtype, record.micro_tokens
        return memory.need(base, line, self.settings, dtype, tokens, recompute=recompute)

    def training_settings(self) -> TrainingSettings:
        """Return the job's own settings over the trainer's defaults; the plan records them."""
        assert self.line.settings is not None
        own = self.job.record.settings.model_dump(exclude_none=True, exclude=NOT_OF_THE_UPDATES)
        seed = self.line.settings.seed
        return TrainingSettings(**{**self.settings.job_defaults(), **own, "seed": seed})

    def for_a_new_plan(self) -> dict[str, Any]:
        """Return what decides about a plan beside the job's own file; see `Spec`."""
        return {
            "eval_datasets": tuple(self.eval_datasets()),
            "earlier_plans": tuple(self.earlier_plans()),
            "lineage_plans": tuple(self.lineage_plans()),
            "trained": tuple(self.trained()),
            "source": self.local.source(self.job.id.sha256),
            "allow_bad": self.job.record.settings.allow_bad,
            "bad_before": self.job.record.bad_rows or 0,
        }

    def eval_datasets(self) -> list[EvalDataset]:
        """Return the lineage's evaluation files, which are measured and never trained."""
        found = []
        keys = self.local.store.keys("duramen", layout.eval_records(self.line.lineage))
        records = filter(None, map(layout.parse_eval_record, sorted(keys)))
        for sha256 in (record.dataset for record in records):
            data = layout.dataset_data(sha256)
            ref = ObjectRef(bucket="duramen", key=data, sha256=sha256, size=0)
            path = self.local.object("datasets", ref, ".jsonl")
            found.append(EvalDataset(path=path, sha256=sha256))
        return found

    def earlier_plans(self) -> list[Path]:
        """Return the plans of the last three other jobs behind the head.

        Their probes are measured in this job too.
        """
        plans: dict[str, ObjectRef] = {}
        for segment in reversed(self.line.kept()):
            close = segment.closed
            if close and close.plan and segment.job != self.job.id:
                plans.setdefault(segment.job.path, close.plan)
        return [self.local.object("plans", ref, ".json") for ref in list(plans.values())[:3]]

    def lineage_plans(self) -> list[Path]:
        """Return the plans of all other jobs of the lineage, whatever became of them."""
        closes = [s.closed for s in self.line.segments.values() if s.closed]
        plans = {c.plan.sha256: c.plan for c in closes if c.plan and c.job != self.job.id.path}
        return [self.local.object("plans", ref, ".json") for ref in plans.values()]

    def trained(self) -> Iterator[TrainedDataset]:
        """Yield what the jobs behind the head trained, newest first; nothing where `delta` is off.

        A dataset that is in no store any more counts as not trained, and the job's log says so.
        """
        if self.job.record.settings.delta == "off":
            return
        for each in trained_jobs(self.line, but=self.job.id):
            try:
                row_ids = self.local.row_ids(each.job.sha256)
            except (ObjectMissing, ObjectDamaged) as error:
                self.note(f"rows that {each.job} trained are not known again: {error}")
                continue
            yield TrainedDataset(
                job=str(each.job),
                version=each.version,
                row_ids=row_ids,
                plan=self.local.object("plans", each.plan, ".json"),
                position=each.position,
            )

    def note(self, said: str) -> None:
        """Write a line to the job's log."""
        with self.folder.job_log.open("a", encoding="utf-8") as log_file:
            log_file.write(said + "\n")

    def carry_earlier(self) -> None:
        """Fetch log and metrics of the job's earlier segment, unless this folder has its own."""
        if self.folder.metrics.exists() or self.folder.job_log.exists():
            return
        for file in earlier_files(self.local, self.line, self.job):
            path = self.folder.path / file.path
            if path in (self.folder.metrics, self.folder.job_log):
                self.local.store.fetch(file.ref, path)


def earlier_files(local: Local, line: Line, job: Job) -> Sequence[ResultFile]:
    """Return the files listed in the result.json of this job's last kept segment; empty if none.

    One that cannot be read is named in the log: the job goes on without its earlier files.
    """
    for segment in reversed(line.kept()):
        close = segment.closed
        if segment.job == job.id and close is not None and close.result is not None:
            try:
                ref = close.result
                data = local.store.read(ref.bucket, ref.key, sha256=ref.sha256)
                return SegmentResult.from_bytes(data).files
            except ObjectMissing:
                return ()
            except (ObjectDamaged, *MALFORMED) as error:
                log.get().error("result_unreadable", key=close.result.key, why=str(error))
                return ()
    return ()
