"""A worker as its supervisor has it, and specifications of jobs for it."""

import contextlib
import json
import os
import selectors
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.trainer import checkpoint
from services.trainer.protocol import Stop, StopReason
from shared.errors import CannotTrain
from shared.formats.checkpoint import Header, TensorHashes
from tests.forkserver import CAN_FORK, launch
from tests.tiny import tiny_conversations, write_dataset

DEADLINE_SECONDS = 90.0
ROOT = Path(__file__).parents[1]


class Worker:
    """A running worker with its specification; used as a context manager.

    It is forked with its imports made (see `forkserver`), unless it is to be `fresh`: where memory
    is measured, or more than a worker's own words and files matters.
    """

    def __init__(
        self,
        directory: Path,
        spec: dict[str, Any],
        log: str = "job.log",
        silent_seconds: float = DEADLINE_SECONDS,
        *,
        fresh: bool = not CAN_FORK,
    ) -> None:
        self.silent_seconds = silent_seconds
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "spec.json"
        path.write_text(json.dumps(spec))
        child_in, self.stdin = os.pipe()
        self.stdout, child_out = os.pipe()
        with (directory / log).open("ab") as file:
            files = (child_in, child_out, file.fileno())
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            module = ["services.trainer.worker", str(path)]
            self.process = launch(module, environment, *files, fresh=fresh)
        os.close(child_in)
        os.close(child_out)
        self.buffer = b""
        self.events: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.close_stdin()
        os.close(self.stdout)

    def kill(self) -> None:
        """End it as by `kill -9`."""
        self.process.kill()
        self.wait()

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for its end; return its exit status."""
        return self.process.wait(seconds)

    def close_stdin(self) -> None:
        """Leave it as a supervisor does that ends."""
        if self.stdin >= 0:
            os.close(self.stdin)
        self.stdin = -1

    def tell(self, command: str) -> None:
        os.write(self.stdin, json.dumps({"command": command}).encode() + b"\n")

    def stop(self) -> None:
        """Ask it to pause."""
        os.write(self.stdin, Stop(reason=StopReason.PAUSE).model_dump_json().encode() + b"\n")

    def next(self) -> dict[str, Any] | None:
        """The next event; None at the end of its output. Fails after `silent_seconds`."""
        deadline = time.monotonic() + self.silent_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                assert selector.select(deadline - time.monotonic()), f"silent; {self.events[-3:]}"
                data = os.read(self.stdout, 65536)
                if not data:
                    return None
                self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        self.events.append(event)
        return event

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while (event := self.next()) is not None:
            if wanted(event):
                return event
            assert event["event"] != "failed", event
        raise AssertionError(f"ended without it; {self.events[-3:]}")

    def until_event(self, name: str) -> dict[str, Any]:
        return self.until(lambda e: e["event"] == name)

    def run(self) -> dict[str, Any]:
        """From the plan to the end; the `end` or `failed` event."""
        self.until_event("plan")
        self.tell("go")
        return self.until_event("end")


class Job:
    """Makes specifications for one dataset; each run gets a folder of its own by its name."""

    def __init__(self, directory: Path, base: Path) -> None:
        self.directory, self.base = directory, base
        self.dataset = directory / "data.jsonl"
        self.sha256 = write_dataset(self.dataset, tiny_conversations(60))

    def spec(self, name: str, **changes: Any) -> dict[str, Any]:
        folder = self.directory / name
        spec: dict[str, Any] = {
            "lineage": "main",
            "segment": "100",
            "fence": 100,
            "job": f"{self.sha256[:12]}.1",
            "base_dir": str(self.base),
            "base_root": "ab" * 32,
            "dataset": str(self.dataset),
            "dataset_sha256": self.sha256,
            "plan_out": str(folder / "plan.json"),
            "lora": {"rank": 4, "alpha": 8, "dropout": 0.05},
            "settings": {
                "learning_rate": 0.01,
                "epochs": 2,
                "batch_tokens": 400,
                "max_length": 200,
                "warmup_steps": 4,
                # With everything that draws or decides something at each step.
                "schedule": "cosine",
                "neftune_alpha": 1.0,
            },
            "clock": "2026-03-01T00:00:00+00:00",
            "start": {"position": 0, "global_step": 0, "job_steps_from": 0},
            "micro_tokens": 250,
            "checkpoint_dir": str(folder / "checkpoints"),
            "checkpoint_seconds": 1e-3,
            "snapshot": {"directory": str(folder / "snapshots"), "allowance_seconds": 0.0},
            "metrics": str(folder / "metrics.jsonl"),
            "lock_file": str(folder / "lock"),
            "threads": 1,
        }
        return {**spec, **changes}

    def resumed(self, name: str, path: Path, header: Header) -> dict[str, Any]:
        """The same run, going on from a checkpoint under a new fence, as a reclaim does."""
        plan = self.directory / name / "plan.json"
        start = {"position": header.position, "global_step": header.global_step}
        return self.spec(
            name,
            fence=200,
            plan=str(plan),
            plan_sha256=header.plan,
            checkpoint=str(path),
            start=start,
        )

    def run(self, name: str, **changes: Any) -> dict[str, Any]:
        with Worker(self.directory / name, self.spec(name, **changes)) as worker:
            return worker.run()

    def newest(self, name: str) -> tuple[Path, Header]:
        found = newest_valid(self.directory / name / "checkpoints", "100")
        assert found is not None
        return found


def newest_valid(directory: Path, segment: str) -> tuple[Path, Header] | None:
    """Return the newest whole checkpoint of this segment, or None."""
    for path, header in checkpoint.of_segment(directory, segment):
        with contextlib.suppress(CannotTrain):
            checkpoint.verify_checkpoint(path)
            return path, header
    return None


def tensors(end: dict[str, Any]) -> TensorHashes:
    return checkpoint.verify_checkpoint(Path(end["checkpoint"]["path"])).tensors


def failure(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    with Worker(folder, spec) as worker:
        while (event := worker.next()) is not None:
            if event["event"] == "plan":
                worker.tell("go")
            if event["event"] == "failed":
                assert worker.wait() == 0
                return event
    raise AssertionError("it did not fail")
