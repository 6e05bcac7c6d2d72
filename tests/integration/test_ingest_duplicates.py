"""ingest on rows that came before: what became of them is told, nothing is trained twice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shared.bus.client import Bus
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line
from shared.protocol.names import JobId, LineVerb
from shared.protocol.records import Head, LineClose, LineOpen, LineRecord
from tests.inbox import Box, row


class Trainer:
    """Writes what trainer and ctl would write, with their identities, through the real fold."""

    def __init__(self, box: Box, buses: dict[str, Bus]) -> None:
        self.box, self.buses, self.table = box, buses, Table()

    @property
    def line(self) -> Line:
        return self.table.lines[self.box.lineage]

    async def append(self, verb: LineVerb, record: LineRecord) -> int:
        sequence = await self.line.append(self.buses["trainer"], verb, record)
        await self.table.update(self.buses["trainer"])
        return sequence

    async def close(self, job_id: JobId, outcome: str, version: int | None) -> None:
        """Open a segment, close it, let the job record follow."""
        await self.table.update(self.buses["trainer"])
        job, line = self.table.jobs[job_id], self.line
        segment = f"{line.sequence:012x}"
        fence = await self.append(
            "open",
            LineOpen(
                by="test",
                prev=line.sequence,
                lineage=self.box.lineage,
                segment=segment,
                job=job_id.path,
                job_sequence=job.sequence,
                position=0,
                global_step=0,
                micro_tokens=16,
                dtype="float32",
                lease="trainer.test",
                owner="test",
                host="test",
            ),
        )
        job = await self.table.write(
            self.buses["trainer"], job, "run", "test", segment=segment, fence=fence
        )
        assert line.head is not None
        close = {
            "by": "test",
            "prev": line.sequence,
            "lineage": self.box.lineage,
            "segment": segment,
            "fence": fence,
            "job": job_id.path,
            "outcome": outcome,
            "from_step": 0,
            "to_step": 1,
            "from_position": 0,
            "to_position": 1,
            "head": Head(base_root=line.head.base_root),
            "version": version,
        }
        await self.append("close", LineClose.model_validate(close))
        verb: Any = {"done": "done", "failed": "fail"}[outcome]
        await self.table.write(self.buses["trainer"], job, verb, "test", version=version)


@asynccontextmanager
async def trainer(box: Box) -> AsyncIterator[Trainer]:
    await box.house.create(box.lineage, "0" * 64)
    async with box.house.bus("trainer") as first, box.house.bus("ctl") as second:
        yield Trainer(box, {"trainer": first, "ctl": second})


async def test_the_same_rows_again_are_told_what_became_of_them(box: Box) -> None:
    data = row(box.lineage)
    with box.running():
        async with trainer(box) as training:
            box.drop("first.jsonl", data)
            assert (await box.ended("first.jsonl")).outcome == "queued"
            (job,) = await box.jobs()

            # Another layout, other white space: the same rows.
            box.drop("queued.jsonl", data.replace(b": ", b" :  "))
            report = await box.ended("queued.jsonl")
            assert report.outcome == "duplicate"
            assert f"already queued, as job {job.id}" in report.why
            assert report.job == job.id.path

            await training.close(job.id, "failed", None)
            box.drop("failed.jsonl", data)
            report = await box.ended("failed.jsonl")
            assert report.next_step == f"duramen queue retry {job.id}"
            await training.table.update(training.buses["ctl"])
            failed = training.table.jobs[job.id]
            await training.table.write(training.buses["ctl"], failed, "retry", "test")

            await training.close(job.id, "done", 1)
            box.drop("trained.jsonl", data)
            report = await box.ended("trained.jsonl")
            assert (report.outcome, report.version) == ("duplicate", 1)
            assert f"v001 of {box.lineage}" in report.why
            assert len(await box.jobs()) == 1

            box.drop("removed.jsonl", row(f"{box.lineage} removed"))
            await box.ended("removed.jsonl")
            (unwanted,) = [j for j in await box.jobs() if j.record.state == "queued"]
            await training.table.update(training.buses["ctl"])
            await training.table.write(
                training.buses["ctl"], training.table.jobs[unwanted.id], "remove", "test"
            )
            box.drop("wanted.jsonl", row(f"{box.lineage} removed"))
            assert (await box.ended("wanted.jsonl")).outcome == "queued"
            again = [job.id for job in await box.jobs() if job.id.sha256 == unwanted.id.sha256]
            assert {job_id.run for job_id in again} == {1, 2}
        assert len(await box.events("duplicate")) == 3
