"""The worker as a child process: its spec goes in as a file, commands and events as JSON lines.

Spawned from the main thread: the worker asks the kernel to die with its parent *thread*.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from pydantic import ValidationError

from services.trainer.protocol import EVENTS, Command, WorkerEvent
from shared import log
from shared.child import safe_environment

LINE_BYTES = 32 << 20
ORDER = "CUDA_DEVICE_ORDER"  # without it CUDA begins with the fastest GPU, NVML never does


def environment(threads: int | None) -> dict[str, str]:
    """Return the environment of a worker: no secrets, no access to a hub.

    OMP_WAIT_POLICY keeps OpenMP's threads from spinning on a CPU.
    """
    kept = safe_environment() | {
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]),
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        ORDER: os.environ.get(ORDER, "PCI_BUS_ID"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if threads is not None:
        kept["OMP_NUM_THREADS"] = str(threads)
    return kept


class Worker:
    """One worker process, from spawn to exit."""

    def __init__(self, process: asyncio.subprocess.Process, log_file: int) -> None:
        self._process, self._log_file = process, log_file

    @classmethod
    async def spawn(cls, spec: Path, job_log: Path, threads: int | None) -> "Worker":
        """Start a worker with a spec file; its standard error is appended to the job's log."""
        log_file = os.open(job_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.trainer.worker",
            str(spec),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log_file,
            env=environment(threads),
            limit=LINE_BYTES,
        )
        return cls(process, log_file)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def events(self) -> AsyncIterator[WorkerEvent]:
        """Yield its events until it closes its standard output."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                event = EVENTS.validate_json(line)
            except ValidationError as error:
                why = error.errors(include_input=False, include_url=False)[:3]
                log.get().error("worker_line_unreadable", size=len(line), why=str(why))
                continue
            yield event

    async def send(self, command: Command) -> None:
        """Send a command; if the worker is gone, do nothing, for its end is seen elsewhere."""
        assert self._process.stdin is not None
        if self._process.returncode is None:
            try:
                self._process.stdin.write(command.model_dump_json().encode() + b"\n")
                await self._process.stdin.drain()
            except (BrokenPipeError, ConnectionResetError):
                return

    async def wait(self) -> int:
        """Wait for its end; return its exit status (negative: the signal that ended it)."""
        status = await self._process.wait()
        if self._log_file >= 0:
            os.close(self._log_file)
            self._log_file = -1
        return status

    async def kill(self) -> None:
        """Kill it now, if it still runs, and wait for its end."""
        if self._process.returncode is None:
            self._process.kill()
        await self.wait()
