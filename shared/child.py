"""Child processes for work that may go wrong, within limits of memory and time.

Parent and child exchange JSON lines. The kernel ends a child that takes too much; the next question
starts another one. Uses only the standard library.
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# All that a child sees of this process's environment: programs, languages and devices, no secret.
KEPT_VARIABLES = (
    *("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR"),
    "CUDA_VISIBLE_DEVICES",
)
KEPT_FAMILIES = ("NVIDIA_", "OPENBLAS_")

ROOT = Path(__file__).resolve().parents[1]
ORPHANED = 3  # exit code of a process whose parent ended before it was tied to it
PR_SET_PDEATHSIG = 1


def safe_environment() -> dict[str, str]:
    """Return what a child that reads strangers' files may know of this process's environment."""
    kept = (*KEPT_VARIABLES, *(name for name in os.environ if name.startswith(KEPT_FAMILIES)))
    return {name: os.environ[name] for name in kept if name in os.environ}


class ChildEnded(Exception):
    """The child ended instead of answering. `status` is that of `subprocess.Popen.returncode`."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"the child ended with status {status}")


class Child:
    """A process `python -m MODULE ARGUMENTS…` that runs `answer_lines`, one question at a time.

    Its environment is `safe_environment` and what is given here.
    """

    def __init__(self, *module: str, environment: Mapping[str, str] | None = None) -> None:
        self.command = [sys.executable, "-m", *module]
        self.environment = {**safe_environment(), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the child if there is none, and return it.

        A child that dies with its parent dies with the thread that calls this.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                env=self.environment,
            )
        return self._process

    def ask(
        self,
        question: Mapping[str, Any],
        cpu_seconds: int,
        *,
        wall_seconds: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Return the child's answer. Blocks, and calls `meanwhile` about once a second.

        Raises ChildEnded if the child took more memory than it may, more processor time than
        `cpu_seconds` (SIGXCPU) or more time than `wall_seconds` (SIGKILL), or if it crashed.
        """
        child = self.start()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps({**question, "cpu_seconds": cpu_seconds}).encode() + b"\n")
            child.stdin.flush()
            line = read_line(child, wall_seconds, meanwhile)
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            self.close()
            raise ChildEnded(child.returncode)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the child, whatever it is doing."""
        child, self._process = self._process, None
        if child is None:
            return
        if child.poll() is None:
            child.kill()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()
        child.wait()


def read_line(
    child: subprocess.Popen[bytes],
    seconds: float | None,
    meanwhile: Callable[[], None] | None,
) -> bytes:
    """Return a line from the child, or no bytes if it ended or took too long."""
    assert child.stdout is not None
    begun, found = time.monotonic(), b""
    while not found.endswith(b"\n"):
        if not select.select([child.stdout], [], [], 1.0)[0]:
            if meanwhile is not None:
                meanwhile()
            if seconds is not None and time.monotonic() - begun > seconds:
                return b""
            continue
        piece = os.read(child.stdout.fileno(), 1 << 20)
        if not piece:
            child.wait()
            return b""
        found += piece
    return found


# ---- in the child --------------------------------------------------------------------------------


def answer_lines(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer each question until stdin ends; each has its own limit of processor time."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries print
    for line in sys.stdin.buffer:
        question = json.loads(line)
        limit_time(question.pop("cpu_seconds"))
        out.write(json.dumps(answer(question)).encode() + b"\n")


def limit_memory(memory_bytes: int, *, may_write: bool) -> None:
    """Let this process map `memory_bytes` beyond what it has now, and leave no core dump.

    Unless it `may_write`, it cannot write to files, either.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft_limit(resource.RLIMIT_AS, pages * resource.getpagesize() + memory_bytes)
    soft_limit(resource.RLIMIT_CORE, 0)
    if not may_write:
        soft_limit(resource.RLIMIT_FSIZE, 0)


def limit_time(seconds: int) -> None:
    """Let this process use that many seconds of processor time from now on.

    The kernel counts whole seconds from the start of the process. Processor time is what counts, so
    that a busy machine changes no outcome.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


def soft_limit(which: int, most: int) -> None:
    """Set a limit that the kernel enforces, at most as high as the hard limit."""
    hard = resource.getrlimit(which)[1]
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (soft, hard))


def die_with_parent(parent: int | None = None) -> bool:
    """Have the kernel kill this process when its parent ends, however it ends.

    More exactly, that happens when the thread ends that started this process. The request survives
    exec. `parent` is the parent's process id, where this process was given it. The process exits at
    once if the parent has already ended. Returns False if the request is not possible.
    """
    parent = os.getppid() if parent is None else parent
    asked = False
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        asked = int(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)) == 0
    if os.getppid() != parent:  # it ended in between
        os._exit(ORPHANED)
    return asked
