"""The house on test servers: real services as processes, real files, waits with a deadline."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from services.trainer import device
from shared.bus.client import Bus
from shared.files import sha256_bytes, sha256_file
from shared.formats.version import root_hash, sums
from shared.ledger.control import observed
from shared.ledger.jobs import Job, Table
from shared.ledger.lineage import Line
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId, Level, now
from shared.protocol.records import JobRecord, JobSettings, LineageSettings, LineCreate, Lora
from shared.store.place import PRECIOUS
from shared.store.s3 import Store
from tests import hurried
from tests.forkserver import CAN_FORK, start
from tests.stack import Stack
from tests.tiny import Conversation, line_of, shared_tiny

ROOT = Path(__file__).parents[1]
DEADLINE_SECONDS = 120.0
# A cancellation that a library lost is said again after 27 s, on a busy machine twice.
END_SECONDS = 90.0
T = TypeVar("T")


async def until(
    look: Callable[[], Awaitable[T | None]], what: str, seconds: float = DEADLINE_SECONDS
) -> T:
    """What `look` finds, as soon as it finds something that is not None or False."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = await look()
        if found is not None and found is not False:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


class Process:
    """A service as a process, which is forked unless it is to be `fresh`; its log is a file."""

    def __init__(
        self,
        name: str,
        env: dict[str, str],
        log: Path,
        periods: dict[str, float] | None = None,
        *,
        fresh: bool = not CAN_FORK,
    ) -> None:
        self.name, self.log = name, log
        module = hurried.module(name, periods) if periods else [f"services.{name}"]
        env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **env}
        self._process = start(module, env, log, fresh=fresh)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """As by `kill -9`."""
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """As by a supervisor; its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def children(self) -> list[int]:
        """Pids of its children: the worker, while one trains."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    async def worker(self) -> int:
        """The pid of a trainer's worker, as soon as there is one."""

        async def look() -> int | None:
            return next(iter(self.children()), None)

        return await until(look, "the trainer has a worker")


class House:
    """What a test does with the servers, as the users and services would."""

    measures = False  # whether its trainers measure number formats; else they are told float32
    fresh = not CAN_FORK  # whether its services and workers start as they do in earnest

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.processes: list[Process] = []

    @asynccontextmanager
    async def bus(self, service: str) -> AsyncIterator[Bus]:
        async with Bus(self.stack.nats_url, self.stack.seed_file(service), service) as bus:
            yield bus

    def store(self, identity: str, server: str = "store") -> Store:
        keys = self.stack.keys(identity, server)
        url = self.stack.store_url if server == "store" else self.stack.backup_url
        return Store(server, url, keys.access, keys.secret)

    @contextmanager
    def service(
        self, name: str, periods: dict[str, float] | None = None, /, **env: str
    ) -> Iterator[Process]:
        """Run a service until the block ends; it must end cleanly."""
        process = self.start(name, periods, **env)
        try:
            yield process
        finally:
            process.end()

    def start(self, name: str, periods: dict[str, float] | None = None, /, **env: str) -> Process:
        settings = {**self.stack.env(name), **env}
        if name == "trainer" and not self.measures:
            tell_dtype(settings)
        process = Process(name, settings, self.stack.home.log(name), periods, fresh=self.fresh)
        self.processes.append(process)
        return process

    def ends_of_logs(self) -> dict[str, str]:
        """What each service said last, and how it ended if it did."""
        return {
            f"{process.name} (exit status {process.status})": process.log.read_text("utf-8")[-8000:]
            for process in self.processes
        }

    def add_base(self, folder: Path | None = None) -> str:
        """Store a base as the vault would; its root hash."""
        folder = folder or shared_tiny()
        files = {p.name: sha256_file(p) for p in folder.iterdir()}
        root = root_hash(files.items())
        store = self.store("vault")
        for name, sha256 in files.items():
            store.put_file(PRECIOUS, f"bases/{root}/{name}", folder / name, sha256)
        store.create(PRECIOUS, f"bases/{root}/SHA256SUMS", sums(files.items()))
        return root

    async def create(self, lineage: str, root: str, **lora: Any) -> None:
        """Make a lineage."""
        settings = LineageSettings(
            base_root=root, lora=Lora(**{"rank": 4, "alpha": 8, **lora}), dtype="float32"
        )
        async with self.bus("ctl") as bus:
            line = Line(lineage)
            await line.append(
                bus, "create", LineCreate(by="test", lineage=lineage, settings=settings)
            )

    async def submit(
        self,
        lineage: str,
        conversations: Sequence[Conversation],
        level: Level = "normal",
        **settings: Any,
    ) -> JobId:
        """Store a dataset and queue a job on it."""
        data = b"".join(line_of(c) + b"\n" for c in conversations)
        sha256 = sha256_bytes(data)
        key = f"datasets/{sha256}/data.jsonl"
        stored = self.store("ingest").put_bytes(PRECIOUS, key, data)
        job_id = JobId(lineage, sha256, 1)
        record = JobRecord(
            by="test",
            job=job_id.path,
            state="queued",
            level=level,
            name="rows.jsonl",
            dataset=ObjectRef.model_validate(stored.ref.model_dump()),
            rows=len(conversations),
            settings=JobSettings(**settings),
            queued_at=now(),
        )
        async with self.bus("ingest") as bus:
            table = Table()
            await table.update(bus)
            await table.submit(bus, job_id, record)
        return job_id

    async def job(self, bus: Bus, table: Table, job_id: JobId) -> Job:
        await table.update(bus)
        return table.jobs[job_id]

    async def until_state(
        self, job_id: JobId, state: str, seconds: float = DEADLINE_SECONDS
    ) -> Table:
        """The table once a job is in a state."""
        table = Table()
        async with self.bus("ctl") as bus:

            async def look() -> bool:
                job = await self.job(bus, table, job_id)
                return job.record.state == state

            await until(look, f"{job_id} is {state}", seconds)
        return table

    async def until_step(self, position: int, seconds: float = DEADLINE_SECONDS) -> None:
        """Until the trainer shows that it trained this many plan steps."""
        async with self.bus("ctl") as bus:

            async def look() -> bool:
                seen = await observed(bus, "trainer")
                return bool(seen and seen.progress and seen.progress.position >= position)

            await until(look, f"step {position}", seconds)


def tell_dtype(settings: dict[str, str]) -> None:
    """Leave a measurement where the trainer keeps its own: it takes seconds and a torch."""
    kept = Path(settings["DURAMEN_STATE_DIR"]) / "dtype.json"
    here = device.here(settings.get("DURAMEN_DEVICE", "auto"))
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"dtype": "float32", "here": here}))
