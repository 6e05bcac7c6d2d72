"""Forks programs of a process that has imported already what takes each of them seconds.

Only the imports are shared: a forked program has its own arguments, environment, open files and
children, and ends as one that was started by `python -m`. torch has one thread in all of them.
"""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import IO, Any, Protocol

from shared.child import die_with_parent
from tests.forked import be

# A process that has asked for a GPU cannot be forked, and some libraries ask when imported.
CAN_FORK = not Path("/dev/nvidiactl").exists()
# An exit status can be read once; whoever starts a process reads those of all that have ended.
LOCK = threading.Lock()
ROOT = Path(__file__).parents[1]


@functools.cache
def server() -> ForkServerContext:
    """Return what forks, the same for all tests of this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.forkserver_imports"])
    return context


class Program(Protocol):
    """What tests do with a running program: a part of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


class Forked:
    """A program that was forked."""

    def __init__(
        self, module: Sequence[str], environment: Mapping[str, str], folder: Path, *files: int
    ) -> None:
        taken: list[Any] = [Connection(os.dup(file)) for file in files]
        arguments = (list(module), dict(environment), str(folder), taken)
        with LOCK:
            self._process = server().Process(target=be_with, args=arguments, daemon=True)
            self._process.start()
        for file in taken:
            file.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return its exit status as Popen has it, or None while it runs."""
        with LOCK:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return its exit status. TimeoutExpired after `timeout` seconds."""
        connection.wait([self._process.sentinel], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def be_with(module: list[str], environment: dict[str, str], folder: str, files: list[Any]) -> None:
    """Be the program with these files as its standard ones; does not return."""
    die_with_parent()
    os.chdir(folder)
    for number, file in enumerate(files):
        os.dup2(file.fileno(), number)
    be(module, environment)


def launch(
    module: Sequence[str],
    environment: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    *,
    fresh: bool = not CAN_FORK,
) -> Program:
    """Fork `python -m MODULE ARGUMENTS…` with these open files, or start it if it is `fresh`."""
    if not fresh:
        return Forked(module, environment, ROOT, stdin, stdout, stderr)
    command = [sys.executable, "-m", *module]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=stdin, stdout=stdout, stderr=stderr
    )


def start(
    module: Sequence[str], environment: Mapping[str, str], log: Path, *, fresh: bool = not CAN_FORK
) -> Program:
    """Start a program whose output is appended to `log`."""
    with Path(os.devnull).open("rb") as nothing, log.open("ab") as file:
        files = (nothing.fileno(), file.fileno(), file.fileno())
        return launch(module, environment, *files, fresh=fresh)


def finished(
    module: Sequence[str],
    environment: Mapping[str, str],
    seconds: float,
    *,
    fresh: bool = not CAN_FORK,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, within that time; return what it wrote."""
    with (
        Path(os.devnull).open("rb") as nothing,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        files = (nothing.fileno(), out.fileno(), err.fileno())
        program = launch(module, environment, *files, fresh=fresh)
        try:
            status = program.wait(seconds)
        finally:
            program.kill()
            program.wait()
        return subprocess.CompletedProcess(list(module), status, text_of(out), text_of(err))


def text_of(file: IO[bytes]) -> str:
    """Return all that was written to an open file."""
    file.seek(0)
    return file.read().decode()
