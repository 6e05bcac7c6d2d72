"""Files of strangers are parsed in a child, with little memory and time.

`python -m services.ingest.reading.parser` speaks JSON lines: requests on stdin, answers on stdout.
The child may map MEMORY_BYTES beyond what it had at its start, and gets processor time by the size
of the file; the kernel ends it otherwise. It is started when first needed, and again after that.
"""

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.ingest.inbox import sidecar
from services.ingest.outcome.report import Contents, Problem
from services.ingest.reading import dataset
from services.ingest.reading.dataset import Built, Wanted
from services.ingest.reading.row_error import Unreadable
from shared.progress import beat

MEMORY_BYTES = 2 << 30
CPU_SECONDS = 60  # and one more for each of:
BYTES_A_SECOND = 2 << 20
WALL_FACTOR = 5  # a busy machine, a slow disk
PR_SET_PDEATHSIG = 1
ROOT = Path(__file__).parents[3]


class ParserDied(Exception):
    """The child was ended while it read a file; the message says by what."""


class SidecarRefused(Exception):
    """A sidecar that cannot be read."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.message)


class Parser:
    """The child. One request at a time; it may take `wall_factor` times as long as it computes."""

    def __init__(
        self,
        memory_bytes: int = MEMORY_BYTES,
        cpu_seconds: int = CPU_SECONDS,
        wall_factor: int = WALL_FACTOR,
    ) -> None:
        self.memory_bytes, self.cpu_seconds = memory_bytes, cpu_seconds
        self.wall_factor = wall_factor
        self._child: subprocess.Popen[bytes] | None = None

    def build(self, folder: Path, name: str, wanted: Wanted) -> Built:
        """See dataset.build. Blocking. Raises ParserDied, OSError."""
        size = (folder / dataset.ORIGINAL).stat().st_size
        request = {"do": "build", "folder": str(folder), "name": name, "wanted": asdict(wanted)}
        reply = self.ask(request, self.cpu_seconds + size // BYTES_A_SECOND)
        return Built(folder, Contents.model_validate(reply["contents"]))

    def settings(self, path: Path) -> dict[str, Any]:
        """See sidecar.values. Blocking. Raises SidecarRefused, ParserDied, OSError."""
        reply = self.ask({"do": "settings", "path": str(path)}, self.cpu_seconds)
        if "refused" in reply:
            raise SidecarRefused(Problem.model_validate(reply["refused"]))
        return dict(reply["values"])

    def start(self) -> None:
        """Start the child if there is none: from a thread that lives, for it dies with that."""
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "services.ingest.reading.parser", str(self.memory_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
            )

    def ask(self, request: dict[str, Any], cpu_seconds: int) -> dict[str, Any]:
        """One answer of the child. Raises ParserDied, OSError."""
        self.start()
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps({**request, "cpu_seconds": cpu_seconds}).encode() + b"\n")
            child.stdin.flush()
            line = self.read_line(child, cpu_seconds * self.wall_factor)
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            self.close()
            raise ParserDied(why_died(child.returncode, self.memory_bytes, cpu_seconds))
        reply: dict[str, Any] = json.loads(line)
        if "memory" in reply:
            self.close()
            raise ParserDied(too_much_memory(self.memory_bytes))
        if "disk" in reply:
            raise OSError(*reply["disk"])
        return reply

    def read_line(self, child: subprocess.Popen[bytes], seconds: float) -> bytes:
        """A line of the answer; what is no whole line when the child ended or took too long."""
        assert child.stdout is not None
        end, found = time.monotonic() + seconds, b""
        while not found.endswith(b"\n"):
            if not select.select([child.stdout], [], [], 1.0)[0]:
                beat()
                if time.monotonic() > end:
                    return b""
                continue
            piece = os.read(child.stdout.fileno(), 1 << 20)
            if not piece:
                child.wait()
                return b""
            found += piece
        return found

    def close(self) -> None:
        """End the child, whatever it does."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.poll() is None:
            child.kill()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()
        child.wait()


def why_died(status: int | None, memory_bytes: int, cpu_seconds: int) -> str:
    if status == -signal.SIGXCPU:
        return f"reading it took more than {cpu_seconds} seconds of processor time"
    if status is None or status == -signal.SIGKILL:
        return f"reading it took too long, or more than {memory_bytes >> 20} MiB of memory"
    if status < 0:  # some libraries crash where memory ends
        name = signal.Signals(-status).name
        return f"reading it crashed ({name}) or took more than {memory_bytes >> 20} MiB of memory"
    return f"the process that read it ended with status {status}"


def too_much_memory(memory_bytes: int) -> str:
    return f"reading it takes more than {memory_bytes >> 20} MiB of memory"


# ---- the child -----------------------------------------------------------------------------------


def serve(memory_bytes: int) -> None:
    """Answer until stdin ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent ends this process
    limit_memory(memory_bytes)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries print
    for line in sys.stdin.buffer:
        request = json.loads(line)
        limit_time(request["cpu_seconds"])
        try:
            reply = answer(request)
        except MemoryError:
            reply = {"memory": True}
        except OSError as error:
            reply = {"disk": [error.errno or 0, error.strerror or str(error)]}
        out.write(json.dumps(reply).encode() + b"\n")


def answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "settings":
        try:
            return {"values": sidecar.values(Path(request["path"]))}
        except Unreadable as error:
            return {"refused": dataset.problem(error.why, error.line, "").model_dump()}
    fields = request["wanted"]
    wanted = Wanted(**{**fields, "special_tokens": tuple(fields["special_tokens"])})
    built = dataset.build(Path(request["folder"]), request["name"], wanted)
    return {"contents": built.contents.model_dump(mode="json")}


def limit_memory(memory_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft_limit(resource.RLIMIT_AS, pages * resource.getpagesize() + memory_bytes)
    soft_limit(resource.RLIMIT_CORE, 0)


def limit_time(seconds: int) -> None:
    """The kernel counts whole seconds, from the start of the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


def soft_limit(which: int, most: int) -> None:
    hard = resource.getrlimit(which)[1]
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (soft, hard))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
