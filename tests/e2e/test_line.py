"""The whole line: from files in the inbox to verified versions, while everything is killed once."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.forkserver import CAN_FORK, finished
from tests.services import House, Process, until
from tests.stack import Stack
from tests.tiny import Conversation, line_of, make_tiny, tiny_conversations

SERVICES = ("ingest", "trainer", "vault", "evolution")
QUICK = {
    "DURAMEN_SETTLE_SECONDS": "0.2",
    "DURAMEN_CHECKPOINT_SECONDS": "0.5",
    "DURAMEN_BATCH_TOKENS": "64",
    "DURAMEN_NUM_TRAIN_EPOCHS": "4",
    "DURAMEN_LEARNING_RATE": "5e-3",
    "DURAMEN_LEASE_SECONDS": "5",
}


class Line(House):
    """All services on one set of servers, each of them restartable, and the command line.

    They start as they do in earnest; what is started again after that is forked.
    """

    measures = fresh = True

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.running: dict[str, Process] = {}

    def up(self) -> None:
        for name in SERVICES:
            self.running[name] = self.start(name, **QUICK)
        self.fresh = not CAN_FORK

    def kill(self, name: str) -> None:
        """SIGKILL, and start again, as a supervisor would."""
        self.running[name].kill()
        self.running[name] = self.start(name, **QUICK)

    def down(self) -> None:
        for process in self.running.values():
            process.end()

    def duramen(self, *words: str, status: int = 0) -> Any:
        """Run one command with --json; what it printed."""
        env = {"PATH": os.environ["PATH"], "COLUMNS": "100", **self.stack.env("ctl")}
        done = finished(["services.ctl", *words, "--json"], env, 180)
        assert done.returncode == status, f"{words}: {done.stdout} {done.stderr}"
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None

    def drop(self, folder: str, name: str, data: bytes) -> None:
        path = self.stack.home.inbox / folder / name
        part = path.with_name(f".{name}.part")
        part.write_bytes(data)
        part.rename(path)

    async def until_over(self, jobs: int, seconds: float = 240) -> list[dict[str, Any]]:
        """Wait until this many jobs are done and every version is committed."""

        async def look() -> list[dict[str, Any]] | None:
            rows = await asyncio.to_thread(self.duramen, "queue", "list")
            done = [row for row in rows if row["state"] == "done"]
            return rows if len(done) >= jobs else None

        return await until(look, f"{jobs} jobs are done", seconds)


@pytest.fixture
def line(own_stack: Stack) -> Iterator[Line]:
    house = Line(own_stack)
    with ExitStack() as stack:
        stack.callback(house.down)
        house.up()
        yield house


def rows(conversations: list[Conversation]) -> bytes:
    return b"".join(line_of(c) + b"\n" for c in conversations)


async def until_committed(line: Line, count: int) -> list[dict[str, Any]]:
    async def look() -> list[dict[str, Any]] | None:
        found = await asyncio.to_thread(line.duramen, "versions", "list")
        versions = found["versions"] if isinstance(found, dict) else found
        ready = [v for v in versions if v["state"] == "published"]
        return ready if len(ready) >= count else None

    return await until(look, f"{count} versions", 180)


async def test_files_become_versions_in_order_though_everything_is_killed_once(
    line: Line, tmp_path: Path
) -> None:
    make_tiny(tmp_path / "base")
    line.duramen("base", "add", str(tmp_path / "base"), "--no-check")
    line.drop("", "first.jsonl", rows(tiny_conversations(40)))
    line.drop("", "broken.jsonl", rows(tiny_conversations(3)) + b'{"messages": []}\n')
    await line.until_step(3)
    line.drop("priority", "urgent.jsonl", rows(tiny_conversations(10, start=500)))
    assert line.duramen("pause")["state"] == "paused"
    for name in SERVICES:
        line.kill(name)
    for server in ("nats", "store", "backup"):
        line.stack.kill(server)
        await asyncio.to_thread(line.stack.start, server)
    assert line.duramen("status")["services"]["trainer"]["state"] in ("paused", "starting")

    async def is_queued() -> bool:
        return "urgent.jsonl" in {row["name"] for row in line.duramen("queue", "list")}

    await until(is_queued, "the urgent file is queued")  # else the first may be over before it is
    line.duramen("resume")
    await line.until_over(2)
    await until_committed(line, 2)

    jobs = {row["name"]: row for row in line.duramen("queue", "list")}
    assert jobs["urgent.jsonl"]["version"] == 1
    assert jobs["first.jsonl"]["version"] == 2
    rejected = line.stack.home.inbox / "rejected"
    report = json.loads((rejected / "broken.jsonl.report.json").read_bytes())
    assert "messages" in json.dumps(report)
    assert (rejected / "broken.jsonl").exists()
    assert (line.stack.home.inbox / "done" / "first.jsonl").exists()

    three = [line.stack.home.archive / "lineages" / "main" / "v002" / "SHA256SUMS"]
    assert three[0].exists()
    for server in ("store", "backup"):
        store = line.store("reader", server)
        data = store.read("duramen", "lineages/main/v002/SHA256SUMS")
        assert data == three[0].read_bytes()

    check = line.duramen("check")
    assert check is not None
    restore(line, tmp_path)
    learned(line, jobs["first.jsonl"]["job"])


def restore(line: Line, tmp_path: Path) -> None:
    """With an S3 client that knows nothing of us; loaded by peft without a hub."""
    keys = line.stack.keys("reader")
    env = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": keys.access,
        "AWS_SECRET_ACCESS_KEY": keys.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "HF_HUB_OFFLINE": "1",
    }
    aws = [str(Path(sys.executable).with_name("aws")), "--endpoint-url", line.stack.store_url]
    subprocess.run(
        [*aws, "s3", "sync", "--quiet", "s3://duramen/lineages/main/v002/", "v002"],
        cwd=tmp_path,
        env=env,
        check=True,
        timeout=120,
    )
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "v002", check=True)
    manifest = json.loads((tmp_path / "v002" / "MANIFEST.json").read_bytes())
    root = manifest["base_root"]
    subprocess.run(
        [*aws, "s3", "sync", "--quiet", f"s3://duramen/bases/{root}/", "restored"],
        cwd=tmp_path,
        env=env,
        check=True,
        timeout=120,
    )
    sums = (tmp_path / "restored" / "SHA256SUMS").read_bytes()
    assert hashlib.sha256(sums).hexdigest() == root
    load = (
        "from transformers import AutoModelForCausalLM as M; from peft import PeftModel;"
        "m = PeftModel.from_pretrained(M.from_pretrained('restored'), 'v002/adapter');"
        "print(sum(p.abs().sum().item() for n, p in m.named_parameters() if 'lora_B' in n) > 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", load],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == "True"
    line.duramen("restore", "v001", "--to", str(tmp_path / "ours"))
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "ours", check=True)


def learned(line: Line, job: str) -> None:
    """The life lines show that something was learned."""
    summary = line.duramen("evolution", "show", job)
    assert "trained" in json.dumps(summary)
