"""Forks workers of a process that has imported already what takes each of them seconds.

Only the imports are shared: a forked worker reads its specification, speaks through its own pipes
and ends as one that was started by `python -m services.trainer.worker`.
"""

import functools
import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

# A process that has asked for a GPU cannot be forked, and some libraries ask when imported.
CAN_FORK = not Path("/dev/nvidiactl").exists()


@functools.cache
def server() -> ForkServerContext:
    """Return what forks, the same for all tests of this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.forkserver_imports"])
    return context


def fork(spec: Path, stdin: int, stdout: int, stderr: int) -> ForkServerProcess:
    """Start a worker on a specification with these open files."""
    files: list[Any] = [Connection(os.dup(file)) for file in (stdin, stdout, stderr)]
    process = server().Process(target=work, args=(str(spec), files), daemon=True)
    process.start()
    for file in files:
        file.close()
    return process


def work(spec: str, files: list[Any]) -> None:
    """Be the worker; does not return."""
    from services.trainer.worker import __main__

    for number, file in enumerate(files):
        os.dup2(file.fileno(), number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os._exit(__main__.main([spec]))
