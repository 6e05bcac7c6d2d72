"""How long `duramen queue list` takes when ten thousand jobs wait: the whole program, Python too.

`python -m tests.bench.bench_queue [--jobs 10000] [--rounds 5]`

The jobs are real records on a real server, written with ingest's credentials by compare-and-set.
Prints one JSON object: of each command a pair for each round, (seconds by the clock, seconds of
processor time): the second says what it costs where other programs share the machine.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from infra.local.programs import ROOT
from shared.bus.client import EXPECTED_SUBJECT, MESSAGE_ID, Bus
from shared.bus.entry import EXPECTED
from shared.files import sha256_bytes
from shared.ledger.jobs import Table
from shared.protocol.message import ObjectRef
from shared.protocol.names import LEVELS, JobId, now
from shared.protocol.records import JobRecord
from tests.command_line import without_settings
from tests.stack import Stack

AT_ONCE = 200


def record(lineage: str, number: int) -> tuple[JobId, JobRecord]:
    """A job as ingest submits one."""
    sha256 = sha256_bytes(f"{lineage} {number}".encode())
    job = JobId(lineage, sha256, 1)
    dataset = ObjectRef(
        bucket="duramen", key=f"datasets/{sha256}/data.jsonl", sha256=sha256, size=81_920
    )
    return job, JobRecord(
        by="ingest@bench#1",
        job=job.path,
        state="queued",
        level=LEVELS[number % 3],
        name=f"conversations-of-week-{number:05}.jsonl",
        dataset=dataset,
        rows=100 + number % 900,
        queued_at=now(),
    )


async def fill(stack: Stack, jobs: int, lineage: str = "main") -> None:
    """Queue so many jobs, many at once: each is the first under its own wildcard."""
    connection = await stack.connect("ingest")
    stream = connection.jetstream(timeout=30)

    async def put(number: int) -> None:
        job, body = record(lineage, number)
        headers = {EXPECTED: "0", EXPECTED_SUBJECT: job.wildcard, MESSAGE_ID: body.nonce}
        await stream.publish(job.subject("submit"), body.encode(), headers=headers)

    for start in range(0, jobs, AT_ONCE):
        await asyncio.gather(*(put(n) for n in range(start, min(start + AT_ONCE, jobs))))
    await connection.close()


def command(stack: Stack, *words: str) -> tuple[float, float]:
    """What `duramen WORDS` takes from start to end. Raises CalledProcessError."""
    # As it is installed: compiled once, also where this process is told to leave no such files.
    compiled = {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(stack.home.root / "compiled"),
    }
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "services.ctl", *words],
        cwd=ROOT,
        env={**without_settings(), **stack.env("ctl"), "COLUMNS": "120", **compiled},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(wall, 3), round(spent, 3)


async def fold(stack: Stack) -> tuple[float, float]:
    """What reading the stream and folding it takes, on a connection that stands."""
    async with Bus(stack.nats_url, stack.seed_file("ctl"), "ctl") as bus:
        began, before = time.perf_counter(), time.process_time()
        await Table.of(bus)
        return round(time.perf_counter() - began, 3), round(time.process_time() - before, 3)


def measure(stack: Stack, jobs: int, rounds: int) -> dict[str, object]:
    began = time.perf_counter()
    asyncio.run(fill(stack, jobs))
    filled = round(time.perf_counter() - began, 1)
    command(stack, "queue", "list")  # compiles it
    return {
        "jobs": jobs,
        "queued_in": filled,
        "read_and_fold": [asyncio.run(fold(stack)) for _ in range(rounds)],
        "help": [command(stack, "queue", "--help") for _ in range(rounds)],
        "queue_list": [command(stack, "queue", "list") for _ in range(rounds)],
        "queue_list_all": [command(stack, "queue", "list", "--all") for _ in range(rounds)],
        "queue_list_json": [command(stack, "queue", "list", "--json") for _ in range(rounds)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="duramen-bench-") as folder:
        stack = Stack(Path(folder))
        try:
            stack.up()
            print(json.dumps(measure(stack, given.jobs, given.rounds)))
        finally:
            stack.down()


if __name__ == "__main__":
    main()
