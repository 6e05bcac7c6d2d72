"""A disk that is full: the worker says so, and what was saved before is whole."""

import json
import resource
from pathlib import Path
from typing import Any

from tests.worker import Job, Worker, tensors

# What does not fit any more, by the module that writes it: the metrics, a snapshot, a checkpoint.
COMMANDS = {"metrics.py": "", "snapshot_file.py": "snapshot", "checkpoint.py": "checkpoint"}


def largest(folder: Path, where: str) -> int:
    """The largest file that shall still fit: the three are of different sizes."""
    if where == "metrics.py":
        return 1
    snapshots = [p.stat().st_size for p in folder.glob("snapshots/*.parquet")]
    return min(snapshots) - 1 if where == "snapshot_file.py" else 20_000


def full_disk(worker: Worker, limit: int) -> None:
    """From now on no file of the worker may grow beyond the limit, as by a quota: EFBIG."""
    _, hard = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (limit, hard))


def failed_on_a_full_disk(folder: Path, spec: dict[str, Any], where: str) -> None:
    """Run until a step is saved; then the disk is full, and the next write of a kind fails."""
    with Worker(folder, spec) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until_event("step")
        worker.tell("checkpoint")
        worker.until_event("checkpoint")
        full_disk(worker, largest(folder, where))
        if COMMANDS[where]:
            worker.tell(COMMANDS[where])
        while (event := worker.next()) is not None and event["event"] != "failed":
            pass
        assert worker.wait() == 0
    assert event is not None
    assert event["kind"] == "disk"
    assert "File too large" in event["message"]
    assert f"({where}, line" in event["message"]
    assert not event["suspect"]
    assert not [p for p in folder.rglob(".*") if p.parent.name == "checkpoints"]


def test_a_full_disk_fails_the_job_and_what_is_saved_leads_to_the_same_bits(job: Job) -> None:
    undisturbed = job.run("undisturbed", checkpoint_seconds=1e6)
    folder = job.directory / "full"
    spec = job.spec("full", checkpoint_seconds=1e6)
    for where in COMMANDS:
        failed_on_a_full_disk(folder, spec, where)
        spec = {**job.resumed("full", *job.newest("full")), "checkpoint_seconds": 1e6}
    with Worker(folder, spec) as worker:
        end = worker.run()
    assert tensors(end) == tensors(undisturbed)
    lines = [json.loads(m) for m in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["position"] for m in lines if "rows" in m] == list(
        range(1, end["checkpoint"]["position"] + 1)
    )


def test_a_log_on_a_full_disk_hides_no_failure(job: Job) -> None:
    with Worker(
        job.directory / "x", job.spec("x", dataset_sha256="00" * 32), "/dev/full"
    ) as worker:
        event = worker.next()
        assert event is not None
        assert event["kind"] == "data"
        assert worker.wait() == 0
