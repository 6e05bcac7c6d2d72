"""A stage for the vault: a forge of ledgers and files, and the service as a real process."""

import json
import os
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import save

from infra.local.environment import process_environment
from services.vault.__main__ import connect
from services.vault.copies import Copies
from services.vault.settings import VaultSettings
from shared.bus.client import Bus
from shared.files import sha256_bytes
from shared.formats.canonical import canonical_json
from shared.formats.version import root_hash, sums
from shared.ledger.control import Control
from shared.ledger.jobs import Table
from shared.protocol.control import Once
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId, line_subject, line_wildcard, new_segment, now
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
from tests import hurried
from tests.forkserver import Program, start
from tests.services import until
from tests.stack import Stack, wait_until

TENSORS = {"base_model.model.layers.0.q_proj.lora_A.weight": np.ones((4, 8), np.float32)}


@dataclass
class Forge:
    """Writes what ctl, ingest and trainer would write, with their identities."""

    stack: Stack
    lineage: str
    root: str = ""
    table: Table = field(default_factory=Table)

    @asynccontextmanager
    async def bus(self, service: str) -> AsyncIterator[Bus]:
        connection = Bus(self.stack.nats_url, self.stack.seed_file(service), service)
        async with connection:
            yield connection

    def store(self, identity: str) -> Store:
        keys = self.stack.keys(identity)
        return Store("store", self.stack.store_url, keys.access, keys.secret)

    def stage_base(self, **extra: bytes) -> str:
        """A small base in staging; `extra` files go with it, `_` in a name is a dot."""
        files = {
            "config.json": json.dumps({"model_type": "llama", "id": self.lineage}).encode(),
            "model.safetensors": save({"w": np.arange(1000, dtype=np.float32)}),
            "tokenizer.json": b"{}",
            **{name.replace("_", "."): data for name, data in extra.items()},
        }
        return self.stage(files)

    def stage(self, files: dict[str, bytes]) -> str:
        """Put the files of a base into staging; its root."""
        hashes = {path: sha256_bytes(data) for path, data in files.items()}
        root = root_hash(hashes.items())
        store = self.store("ctl")
        for path, data in {**files, "SHA256SUMS": sums(hashes.items())}.items():
            store.put_bytes(WORK, f"staging/bases/{root}/{path}", data)
        return root

    async def ask(self, **fields: Any) -> str:
        """Give the vault a one-time command; its nonce."""
        command = Once(by="test", service="vault", **fields)
        async with self.bus("ctl") as bus:
            control = Control("vault")
            await control.update(bus)
            await control.ask_once(bus, command)
        return command.nonce

    async def answer(self, nonce: str, seconds: float = 30) -> dict[str, Any]:
        async with self.bus("ctl") as bus:

            async def look() -> dict[str, Any] | None:
                async for entry in bus.read("EVT", 0, "evt.vault.answered"):
                    data: dict[str, Any] = json.loads(entry.data)["data"]
                    if data["command"] == nonce:
                        return data
                return None

            found: dict[str, Any] = await until(look, f"answer to {nonce}", seconds)
            return found

    async def begin(
        self, files: dict[str, bytes] | None = None, chat_template: str | None = None
    ) -> "Forge":
        """A base that waits in staging with its command, and a lineage on it."""
        self.root = self.stage(files) if files else self.stage_base()
        await self.ask(command="base", base_root=self.root)
        settings = LineageSettings(base_root=self.root, chat_template=chat_template)
        async with self.bus("ctl") as bus:
            await bus.append(
                "JOBS",
                line_subject(self.lineage, "create"),
                line_wildcard(self.lineage),
                LineCreate(by="test", lineage=self.lineage, settings=settings),
                0,
            )
        return self

    async def train(self, rows: int = 3) -> LineClose:
        """One job from its file to its close, as `done`, under the next version."""
        job, record = await self.submit(rows)
        segment, fence = await self.open(job)
        async with self.bus("trainer") as bus:
            await self.table.update(bus)
            line = self.table.lines[self.lineage]
            assert line.head is not None
            step = line.head.global_step + 10
            plan = self.put("trainer", PRECIOUS, "plans/{}.json", job.path.encode())
            checkpoint = self.checkpoint(segment, fence, step)
            close = LineClose(
                by="test",
                prev=line.sequence,
                lineage=self.lineage,
                segment=segment,
                fence=fence,
                job=job.path,
                outcome="done",
                from_step=step - 10,
                to_step=step,
                from_position=0,
                to_position=10,
                head=Head(base_root=self.root, global_step=step, checkpoint=checkpoint),
                version=line.next_version,
                plan=plan,
                result=self.result(job, segment, fence),
            )
            await line.append(bus, "close", close)
            await self.table.update(bus)
            await self.table.write(bus, self.table.jobs[job], "done", "test", version=close.version)
        assert record.state == "queued"
        return close

    async def submit(self, rows: int) -> tuple[JobId, JobRecord]:
        data = b"".join(
            b'{"messages":[],"n":"%s"}\n' % os.urandom(8).hex().encode() for _ in range(rows)
        )
        ref = self.put("ingest", PRECIOUS, "datasets/{}/data.jsonl", data)
        self.store("ingest").put_bytes(PRECIOUS, f"datasets/{ref.sha256}/report.json", b"{}")
        job = JobId(self.lineage, ref.sha256, 1)
        record = JobRecord(
            by="test",
            job=job.path,
            state="queued",
            level="normal",
            name="train |me|.jsonl",
            dataset=ref,
            rows=rows,
            queued_at=now(),
        )
        async with self.bus("ingest") as bus:
            await self.table.update(bus)
            await self.table.submit(bus, job, record)
        return job, record

    async def open(self, job: JobId) -> tuple[str, int]:
        """Claim a job; (segment, fence)."""
        async with self.bus("trainer") as bus:
            await self.table.update(bus)
            line = self.table.lines[self.lineage]
            assert line.head is not None
            segment = new_segment()
            record = LineOpen(
                by="test",
                prev=line.sequence,
                lineage=self.lineage,
                segment=segment,
                job=job.path,
                job_sequence=self.table.jobs[job].sequence,
                checkpoint=line.head.checkpoint,
                position=0,
                global_step=line.head.global_step,
                micro_tokens=64,
                dtype="float32",
                lease=f"trainer.{self.lineage}",
                owner="test",
                host="here",
            )
            fence = await line.append(bus, "open", record)
            await self.table.update(bus)
            await self.table.write(
                bus, self.table.jobs[job], "run", "test", segment=segment, fence=fence
            )
        return segment, fence

    def put(self, identity: str, bucket: Any, key: str, data: bytes) -> ObjectRef:
        """Store bytes under a key that names their hash."""
        return self.store(identity).put_bytes(bucket, key.format(sha256_bytes(data)), data).ref

    def checkpoint(self, segment: str, fence: int, step: int) -> CheckpointRef:
        tensors = {name: values * step for name, values in TENSORS.items()}
        files = {
            "adapter_model.safetensors": save(tensors),
            "adapter_config.json": b'{"peft_type":"LORA"}',
            "optimizer.safetensors": save({"exp_avg": np.full(300_000, step, np.float32)}),
        }
        header = canonical_json(
            {
                "schema": 1,
                "files": {n: {"sha256": sha256_bytes(d), "size": len(d)} for n, d in files.items()},
                "segment": segment,
            }
        )
        name = sha256_bytes(header)
        prefix = f"checkpoints/{self.lineage}/{segment}/{step:08d}-{name[:12]}"
        store = self.store("trainer")
        for path, data in {**files, "header.json": header}.items():
            store.put_bytes(WORK, f"{prefix}/{path}", data)
        return CheckpointRef(
            id=name, prefix=prefix, segment=segment, fence=fence, position=10, global_step=step
        )

    def result(self, job: JobId, segment: str, fence: int) -> ObjectRef:
        files = []
        for path in ("metrics.jsonl", "job.log", f"evolution/00000010-{fence}.parquet"):
            key = f"results/{self.lineage}/{segment}-{fence}/{path}"
            ref = self.store("trainer").put_bytes(WORK, key, f"{path} {segment}".encode()).ref
            files.append({"path": path, **ref.model_dump()})
        body = {"schema": 1, "job": job.path, "segment": segment, "files": files}
        key = f"results/{self.lineage}/{segment}-{fence}.json"
        return self.store("trainer").put_bytes(WORK, key, canonical_json(body)).ref


class VaultProcess:
    """The service as it runs in earnest; it may be killed and started again.

    A sweep reads whatever all tests have published on these servers, so it comes once a start.
    """

    sweep_seconds = 300.0

    def __init__(self, stack: Stack, **settings: str) -> None:
        self.stack = stack
        changes = {
            "DURAMEN_LEASE_SECONDS": "2",
            **settings,
        }
        self.values = {**stack.env("vault"), **changes}
        self.settings = VaultSettings.load(
            **{k.removeprefix("DURAMEN_").lower(): v for k, v in self.values.items()}
        )
        self.log = stack.home.log(f"vault-{uuid.uuid4().hex[:6]}")
        self.process: Program | None = None

    def start(self) -> None:
        module = hurried.module("vault", {"retry_seconds": 1, "sweep_seconds": self.sweep_seconds})
        self.process = start(module, process_environment(self.values), self.log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ask(self, path: str, method: str = "GET") -> Any:
        headers = {"Authorization": f"Bearer {self.values['DURAMEN_HTTP_TOKEN']}"}
        url = f"http://127.0.0.1:{self.settings.http_port}{path}"
        reply = httpx.request(method, url, headers=headers, timeout=60, verify=False)
        reply.raise_for_status()
        return reply.json()

    def version(self, lineage: str, number: int) -> dict[str, Any] | None:
        """The row of a version; None while the service does not answer."""
        try:
            rows = self.ask(f"/api/versions?lineage={lineage}")
        except httpx.HTTPError:
            return None
        return next((row for row in rows if row["version"] == number), None)

    def until_state(self, lineage: str, number: int, state: str, seconds: float = 60) -> Any:
        def reached() -> bool:
            assert self.alive(), self.log.read_text()[-3000:]
            row = self.version(lineage, number)
            return (
                row is not None
                and row["state"] == state
                and (state == "pending" or row["copies"] == 3)
            )

        wait_until(reached, seconds, f"{lineage} v{number} {state}: {self.log.read_text()[-1500:]}")
        return self.version(lineage, number)

    def await_round(self) -> None:
        """Wait until a whole round of the publish loop has begun and ended."""
        name = 'duramen_loop_last_success_seconds{loop="publish"}'
        for _ in range(2):
            before = self.metric(name)
            wait_until(lambda before=before: self.metric(name) > before, 30, "a round")  # type: ignore[misc]

    def metric(self, name: str) -> float:
        """A metric's value; 0 while it, or the service, is not there."""
        url = f"http://127.0.0.1:{self.settings.http_port}/metrics"
        try:
            text = httpx.get(url, timeout=10, verify=False).text
        except httpx.TransportError:
            return 0.0
        found = [line for line in text.splitlines() if line.startswith(name)]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0

    def copies(self) -> Copies:
        return connect(self.settings)


def latest_of(copies: Copies, lineage: str) -> set[int | None]:
    """Version that `latest` names, in each place."""
    found = [
        place.read_newest(PRECIOUS, f"catalog/{lineage}/latest.json") for place in copies.places
    ]
    return {json.loads(each[0])["version"] if each else None for each in found}


def check_sums(folder: Path) -> None:
    check = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder)
    assert check.returncode == 0


async def first_version(stack: Stack, lineage: str, vault: VaultProcess) -> Forge:
    """A lineage whose v001 is published by a vault that runs; its forge."""
    forge = await Forge(stack, lineage).begin()
    await forge.train()
    vault.start()
    vault.until_state(lineage, 1, "published")
    return forge
