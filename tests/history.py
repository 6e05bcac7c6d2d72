"""A system as its services would leave it, written by hand through their own identities.

Only what is written is invented: real records by compare-and-set, real objects, real copies. So a
reader of streams and stores can be tested on histories that would take hours to train.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.bus.client import Bus
from shared.files import sha256_bytes
from shared.formats.canonical import canonical_json
from shared.formats.checkpoint import HEADER, IN_A_VERSION
from shared.formats.version import CommitRecord, Latest, StoredFile, root_hash, sums, version_name
from shared.ledger.jobs import Job, Table
from shared.ledger.lineage import Line, Segment
from shared.protocol.events import Event, SnapshotDecision, SnapshotStored
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId, JobVerb, Outcome, new_segment, now
from shared.protocol.records import (
    CheckpointRef,
    Head,
    JobRecord,
    LineageSettings,
    LineClose,
    LineCreate,
    LineOpen,
)
from shared.store.place import PRECIOUS, WORK
from shared.store.s3 import Store
from tests.plans import a_plan
from tests.snapshots import Measurement, parquet
from tests.stack import Stack


@dataclass
class Forged:
    """One lineage on a stack."""

    stack: Stack
    name: str
    buses: dict[str, Bus]
    table: Table = field(default_factory=Table)
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    # ---- access ----------------------------------------------------------------------------------

    def store(self, identity: str, server: str = "store") -> Store:
        keys = self.stack.keys(identity, server)
        return Store(server, self.stack.ports.url(server), keys.access, keys.secret)

    @property
    def line(self) -> Line:
        return self.table.lines[self.name]

    async def fold(self) -> None:
        await self.table.update(self.buses["trainer"])

    async def _append(self, service: str, verb: str, record: Any) -> None:
        line = self.table.lines.get(self.name, Line(self.name))
        await line.append(self.buses[service], verb, record)  # type: ignore[arg-type]  # a verb
        await self.fold()

    # ---- the lineage and its jobs ----------------------------------------------------------------

    async def make_lineage(self) -> None:
        files = {"config.json": b"{}", "model.safetensors": self.name.encode()}
        self.root = root_hash((path, sha256_bytes(data)) for path, data in files.items())
        listed = sums((path, sha256_bytes(data)) for path, data in files.items())
        for path, data in {**files, "SHA256SUMS": listed}.items():
            await asyncio.to_thread(self.three_copies, f"bases/{self.root}/{path}", data)
        settings = LineageSettings(base_root=self.root)
        await self.fold()
        await self._append(
            "ctl", "create", LineCreate(by="test", lineage=self.name, settings=settings)
        )

    async def queue(self, name: str, rows: int) -> Job:
        """Store a dataset and queue a job on it; the file itself lies in inbox/done/."""
        lines = [
            {
                "messages": [
                    {"role": "user", "content": f"{name} {n}?"},
                    {"role": "assistant", "content": str(n)},
                ]
            }
            for n in range(rows)
        ]
        data = b"".join(orjson.dumps(line) + b"\n" for line in lines)
        original = data + b"\n"
        sha256 = sha256_bytes(data)
        store = self.store("ingest")
        prefix = f"datasets/{sha256}/"
        stored = await asyncio.to_thread(store.put_bytes, PRECIOUS, f"{prefix}data.jsonl", data)
        key = f"{prefix}original.{sha256_bytes(original)[:12]}.jsonl"
        await asyncio.to_thread(store.put_bytes, PRECIOUS, key, original)
        done = self.stack.home.inbox / "done"
        done.mkdir(exist_ok=True)
        (done / name).write_bytes(original)
        record = JobRecord(
            by="test",
            job=JobId(self.name, sha256, 1).path,
            state="queued",
            level="normal",
            name=name,
            dataset=stored.ref,
            rows=rows,
            queued_at=now(),
        )
        job_id = JobId(self.name, sha256, 1)
        return await self.table.submit(self.buses["ingest"], job_id, record)

    async def plan(self, job: Job, steps: int) -> Job:
        """Write a plan of one row a step, and name it in the job's record."""
        data = a_plan(job.id, batches=[[[n] for n in range(steps)]]).to_bytes()
        key = f"plans/{sha256_bytes(data)}.json"
        stored = await asyncio.to_thread(self.store("trainer").put_bytes, PRECIOUS, key, data)
        changes = {"segment": self.open_segment.id, "fence": self.open_segment.fence}
        bus = self.buses["trainer"]
        return await self.table.write(bus, job, "run", "test", plan=stored.ref, **changes)

    # ---- segments --------------------------------------------------------------------------------

    @property
    def open_segment(self) -> Segment:
        assert self.line.open_segment is not None
        return self.line.open_segment

    async def open(self, job: Job) -> Segment:
        head = self.line.head
        assert head is not None
        record = LineOpen(
            by="test",
            prev=self.line.sequence,
            lineage=self.name,
            segment=new_segment(),
            job=job.id.path,
            job_sequence=job.sequence,
            checkpoint=head.checkpoint,
            position=self.line.position(job.id),
            global_step=head.global_step,
            plan=job.record.plan,
            micro_tokens=512,
            dtype="float32",
            lease=f"trainer.{self.name}",
            owner="test",
            host="test",
        )
        await self._append("trainer", "open", record)
        return self.open_segment

    async def reclaim(self, start: CheckpointRef | None) -> Segment:
        """A new owner takes the open segment over, from a checkpoint or from its beginning."""
        first = self.open_segment.first
        changes: dict[str, Any] = {"prev": self.line.sequence, "nonce": os.urandom(8).hex()}
        changes |= {"position": first.position, "global_step": first.global_step}
        if start is not None:
            changes |= {"checkpoint": start, "position": start.position}
            changes |= {"global_step": start.global_step}
        await self._append("trainer", "open", first.model_copy(update=changes))
        return self.open_segment

    def checkpoint(self, position: int, global_step: int) -> CheckpointRef:
        """Upload a checkpoint of the open segment, whose tensors are a few bytes."""
        segment, store = self.open_segment, self.store("trainer")
        files = {
            name: f"{name} {self.name} {global_step}".encode()
            for name in IN_A_VERSION
            if name != HEADER
        }
        header = {
            "schema": 1,
            "segment": segment.id,
            "fence": segment.fence,
            "position": position,
            "global_step": global_step,
            "files": {n: {"sha256": sha256_bytes(d), "size": len(d)} for n, d in files.items()},
        }
        data = canonical_json(header)
        id_ = sha256_bytes(data)
        prefix = f"checkpoints/{self.name}/{segment.id}/{global_step:08d}-{id_[:12]}"
        for name, each in {**files, HEADER: data}.items():
            store.put_bytes(WORK, f"{prefix}/{name}", each)
        return CheckpointRef(
            id=id_,
            prefix=prefix,
            segment=segment.id,
            fence=segment.fence,
            position=position,
            global_step=global_step,
        )

    async def snapshot(
        self,
        global_step: int,
        measurements: Sequence[Measurement],
        *,
        fence: int | None = None,
        announce: bool = True,
        damage: bool = False,
        data: bytes | None = None,
    ) -> str:
        """Upload a snapshot of the open segment, or `data` in its place; its key."""
        segment = self.open_segment
        fence = fence or segment.fence
        data = data or parquet(segment, fence, global_step, measurements)
        key = f"snapshots/{self.name}/{segment.id}/{global_step:08d}-{fence}.parquet"
        meant = ObjectRef(bucket="work", key=key, sha256=sha256_bytes(data), size=len(data))
        written = data[:-1] + b"?" if damage else data
        await asyncio.to_thread(self.store("trainer").put_bytes, WORK, key, written)
        entry = {"path": f"evolution/{key.rsplit('/', 1)[-1]}", **meant.model_dump()}
        self.results.setdefault(segment.id, []).append(entry)
        if announce:
            stored = SnapshotStored(
                global_step=global_step,
                position=global_step - segment.first.global_step + segment.first.position,
                summary={},
                decision=SnapshotDecision(
                    size="full",
                    why="a test",
                    spent_seconds=0.0,
                    allowed_seconds=0.0,
                    seconds=0.0,
                    is_reused=False,
                    probes=1,
                    measured=1,
                    answered=1,
                ),
                segment=segment.id,
                fence=fence,
            )
            event = Event.of("trainer", stored, lineage=self.name, ref=meant)
            await self.buses["trainer"].event(event)
        return key

    async def close(
        self, outcome: Outcome, left: CheckpointRef | None, **changes: Any
    ) -> LineClose:
        """Close the open segment at a checkpoint (None: the head stays), with its result.

        `changes` to the record make it say what is not so.
        """
        segment, line = self.open_segment, self.line
        first, head = segment.first, line.head
        assert head is not None
        job = self.table.jobs[segment.job]
        step, position = first.global_step, first.position
        if left is not None:
            step, position = left.global_step, left.position
            head = Head(base_root=head.base_root, global_step=step, checkpoint=left)
        record = LineClose(
            by="test",
            prev=line.sequence,
            lineage=self.name,
            segment=segment.id,
            fence=segment.fence,
            job=segment.job.path,
            outcome=outcome,
            from_step=first.global_step,
            to_step=step,
            from_position=first.position,
            to_position=position,
            head=head,
            version=line.next_version if outcome == "done" else None,
            plan=job.record.plan,
            result=await asyncio.to_thread(self.put_result, first, position),
        )
        record = record.model_copy(update=changes)
        await self._append("trainer", "close", record)
        verb: JobVerb = "done" if outcome == "done" else "requeue"
        changes = {"version": record.version} if outcome == "done" else {}
        await self.table.write(self.buses["trainer"], job, verb, "test", **changes)
        return record

    def put_result(self, first: LineOpen, position: int) -> ObjectRef:
        segment, store = self.open_segment, self.store("trainer")
        stem = f"results/{self.name}/{segment.id}-{segment.fence}"
        steps = [
            {
                "position": n,
                "global_step": first.global_step + n - first.position,
                "rows": [{"row": n - 1, "id": "", "loss": 1.0}],
            }
            for n in range(first.position + 1, position + 1)
        ]
        metrics = b"".join(orjson.dumps(step) + b"\n" for step in steps)
        ref = store.put_bytes(WORK, f"{stem}/metrics.jsonl", metrics).ref
        files = [{"path": "metrics.jsonl", **ref.model_dump()}, *self.results.get(segment.id, [])]
        body = {"schema": 1, "job": segment.job.path, "segment": segment.id, "files": files}
        return store.put_bytes(WORK, f"{stem}.json", canonical_json(body)).ref

    # ---- versions --------------------------------------------------------------------------------

    def three_copies(self, key: str, data: bytes) -> tuple[str, str]:
        """Write an object as the vault would; its VersionIds in store and backup."""
        ids = [
            self.store("vault", server).put_bytes(PRECIOUS, key, data).version_id or ""
            for server in ("store", "backup")
        ]
        path = self.stack.home.archive / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return ids[0], ids[1]

    def point(self, key: str, data: bytes) -> None:
        """Replace `latest.json` in all three places."""
        for server in ("store", "backup"):
            place = self.store("vault", server)
            newest = place.read_newest(PRECIOUS, key)
            assert place.swap(PRECIOUS, key, data, newest[1] if newest else None)
        (self.stack.home.archive / key).write_bytes(data)

    def publish(self, version: int) -> CommitRecord:
        """Copy a version's files to all three places, then its commit record, then `latest`."""
        close = self.line.version_close(version)
        assert close is not None
        assert close.head.checkpoint is not None
        assert close.result is not None
        work, prefix = self.store("vault"), f"lineages/{self.name}/{version_name(version)}/"
        dataset = f"datasets/{JobId.parse(close.job).sha256}/data.jsonl"
        self.three_copies(dataset, work.read(PRECIOUS, dataset))
        content = {
            inside: work.read(WORK, f"{close.head.checkpoint.prefix}/{name}")
            for name, inside in IN_A_VERSION.items()
        }
        result = orjson.loads(work.read(WORK, close.result.key))
        content |= {file["path"]: work.read(WORK, file["key"]) for file in result["files"]}
        content["MANIFEST.json"] = canonical_json({"version": version})
        files = []
        for path, data in sorted(content.items()):
            in_store, in_backup = self.three_copies(prefix + path, data)
            files.append(
                StoredFile(
                    path=path,
                    sha256=sha256_bytes(data),
                    size=len(data),
                    store_version_id=in_store,
                    backup_version_id=in_backup,
                )
            )
        record = CommitRecord(
            lineage=self.name,
            version=version,
            ledger_sequence=self.line.versions[version],
            prefix=prefix,
            manifest_sha256=sha256_bytes(content["MANIFEST.json"]),
            base_root=self.root,
            dataset_sha256=JobId.parse(close.job).sha256,
            files=files,
            verified_copies=3,
        )
        catalog = f"catalog/{self.name}"
        self.three_copies(f"{catalog}/{version_name(version)}.json", encoded(record))
        sequence = self.line.versions[version]
        latest = Latest(lineage=self.name, version=version, ledger_sequence=sequence)
        self.point(f"{catalog}/latest.json", encoded(latest))
        return record


def encoded(record: CommitRecord | Latest) -> bytes:
    return canonical_json(record.model_dump(mode="json")) + b"\n"


@asynccontextmanager
async def forging(stack: Stack, lineage: str) -> AsyncIterator[Forged]:
    """A lineage on a new base, and the connections of those who write its records."""
    buses = {s: Bus(stack.nats_url, stack.seed_file(s), s) for s in ("ingest", "ctl", "trainer")}
    try:
        for bus in buses.values():
            await bus.connect(patient=False)
        forged = Forged(stack, lineage, buses)
        await forged.make_lineage()
        yield forged
    finally:
        for bus in buses.values():
            await bus.close()
